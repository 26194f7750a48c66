"""Files that `export` wrote in the place of models, for the commands that evaluate, predict and restore."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vimzoo.errors import UsageError, first_line
from vimzoo.models.restoration_base import RestorationModel
from vimzoo.ops.runtime.onnxruntime import onnxruntime_extension

from .formats.onnx import open_onnx
from .openvino import open_with_our_scan
from .record import Opened

_logger = logging.getLogger(__name__)

TILE = 128
"""Side of a restoration file's tiles in pixels where the user leaves it open: nobody counts a file's memory before."""


def _in_onnxruntime(path: Path, precision: str) -> Opened:
    """A file in onnxruntime, with our operators where their library can be built."""
    library, reason = _library()
    try:
        return open_onnx(path, library)
    except Exception as error:
        if library is None and "vimzoo:" in str(error) and "not a registered" in str(error):
            raise UsageError(
                f"{path}: has operators of our own, expected to find their library; {reason}"
            ) from None
        raise


@cache  # says it once
def _library() -> tuple[Path | None, str]:
    """The library, or why there is none."""
    try:
        return onnxruntime_extension(), ""
    except UsageError as error:
        _logger.warning(
            "onnxruntime runs scans by standard operators, which takes several times as long: %s", error
        )
        return None, str(error)


class Runner(NamedTuple):
    """What runs files in the commands.

    Attributes:
        suffixes: Of the files.
        requires: Modules that it imports.
        extra: The extra of this package that installs them.
        open: Opens a file, with arithmetic of a precision.
        precisions: What it computes in, by torch's types.
    """

    suffixes: tuple[str, ...]
    requires: tuple[str, ...]
    extra: str
    open: Callable[[Path, str], Opened]
    precisions: Mapping[torch.dtype, str]


RUNNERS = {
    "onnxruntime": Runner((".onnx",), ("onnxruntime",), "export", _in_onnxruntime, {torch.float32: "f32"}),
    "openvino": Runner(
        (".xml", ".onnx"),
        ("openvino",),
        "openvino",
        open_with_our_scan,
        {torch.float32: "f32", torch.bfloat16: "bf16"},
    ),
}
"""Values of the commands' ``--runtime``. A file without that option goes to the first that reads its suffix."""
RUNTIME_HELP = "runs a file that vimzoo.export wrote, given by --model (default: by the file's suffix)"
"""Help of ``--runtime``."""


class ClassifierFile(nn.Module):
    """An exported classifier, as far as predictions need one: images ``(B, C, H, W)`` -> logits.

    Attributes:
        pretrained_cfg: What the file says of its input and classes, under timm's names.
        num_classes: Number of logits.
        sides: Height and width of its images; None where it takes any.
    """

    def __init__(self, opened: Opened, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.run = opened.run
        self.pretrained_cfg = dict(facts)
        self.num_classes: int = facts["num_classes"]
        self.sides = opened.sides

    def forward(self, x: Tensor) -> Tensor:
        """Run the file."""
        return self.run(x.contiguous())


class RestorationFile(RestorationModel):
    """An exported restoration model.

    Attributes:
        usual_tile: Side of its tiles where the user leaves it open.
        sides: Height and width of its images; None where it takes any.
    """

    def __init__(self, opened: Opened, facts: Mapping[str, Any], digest: bytes) -> None:
        super().__init__()
        self.run = opened.run
        self.feature_info: list[Any] = []
        self.in_chans, self.scale = facts["input_size"][0], facts["scale"]
        self.sides = opened.sides
        side = self.sides[0]
        multiple = facts.get("multiple_of", 1)
        self.multiple_of, self.usual_tile = (multiple, max(TILE, multiple)) if side is None else (side, side)
        # In place of weights, by which results are told from those of another model
        self.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Run the file."""
        return self.run(x.contiguous())


def exported(
    given: str | None, runtime: str | None, dtype: torch.dtype = torch.float32, **refused: Any
) -> ClassifierFile | RestorationFile | None:
    """The exported file that a command is to run; None if it is given a model for PyTorch.

    Args:
        given: Value of ``--model``.
        runtime: One of `RUNNERS`, or None to go by the file's suffix.
        dtype: Of the arithmetic.
        refused: Options that files do not have, by name; what is not None is refused.

    Raises:
        UsageError: the runtime is missing, or does not read the file or the type; or the file has no metadata.
    """
    if (runtime := chosen_runtime(given, runtime)) is None:
        return None
    for name, value in refused.items():
        if value is not None:
            raise UsageError(
                f"--{name} {value}: {given} is an exported file, for which this cannot be chosen"
            )
    return opened_file(Path(given or ""), runtime, dtype)


def chosen_runtime(given: str | None, runtime: str | None = None) -> str | None:
    """What is to run an exported file; None if ``given`` is a model for PyTorch.

    Args:
        given: Value of ``--model``.
        runtime: One of `RUNNERS`, or None to go by the file's suffix.

    Raises:
        UsageError: there is no file that the runtime reads.
    """
    path = Path(given or "")
    if runtime is None:
        able = (name for name, runner in RUNNERS.items() if path.suffix in runner.suffixes)
        return next(able, None) if path.is_file() else None
    suffixes = RUNNERS[runtime].suffixes
    if path.suffix not in suffixes or not path.is_file():
        raise UsageError(
            f"--runtime {runtime}: expected --model FILE ({' or '.join(suffixes)}) that vimzoo.export wrote, "
            f"got {given or 'none'}"
        )
    return runtime


def opened_file(
    path: Path, runtime: str, dtype: torch.dtype = torch.float32, setting: str = ""
) -> ClassifierFile | RestorationFile:
    """A file as a model.

    Args:
        path: As `export` writes it, in a format that the runtime reads.
        runtime: One of `RUNNERS`.
        dtype: Of the arithmetic.
        setting: By what the user chose it, for messages; by default ``--dtype`` and the name of the type.

    Raises:
        UsageError: the runtime is missing, or does not read the file or the type; or the file does not say what it is,
            or is neither a classifier of images nor a restoration model.
    """
    runner = RUNNERS[runtime]
    if dtype not in runner.precisions:
        able = " or ".join(str(one).removeprefix("torch.") for one in runner.precisions)
        setting = setting or f"--dtype {str(dtype).removeprefix('torch.')}"
        raise UsageError(f"{setting}: {runtime} computes {path} in {able}")
    if absent := [module for module in runner.requires if find_spec(module) is None]:
        raise UsageError(
            f"--runtime {runtime}: needs {', '.join(absent)}; pip install 'vimzoo[{runner.extra}]'"
        )
    try:
        opened = runner.open(path, runner.precisions[dtype])
    except UsageError:
        raise
    except Exception as error:  # runtimes raise anything
        raise UsageError(f"--model {path}: {runtime} cannot read it: {first_line(error)}") from error
    try:
        facts = {key: json.loads(value) for key, value in opened.metadata.items()}
    except ValueError:
        facts = {}
    if "inputs" in facts:
        raise UsageError(
            f"--model {path}: takes {', '.join(facts['inputs'])}; expected a file for images alone"
        )
    if not {"num_classes", "input_size"} <= facts.keys():
        raise UsageError(f"--model {path}: has no metadata of vimzoo.export, which says what the model takes")
    if frames := facts.get("num_frames"):
        raise UsageError(f"--model {path}: reads clips of {frames} frames; expected a file for images alone")
    if "scale" not in facts and "multiple_of" in facts:
        raise UsageError(
            f"--model {path}: a segmentation model; expected a classifier or a restoration model, as "
            "masks are predicted by weights or a run alone"
        )
    if "scale" not in facts:
        return ClassifierFile(opened, facts)
    if opened.sides[0] != opened.sides[1]:
        raise UsageError(
            f"--model {path}: written for {opened.sides[0]} x {opened.sides[1]} pixels; expected a file for squares or "
            "for any size (--size dynamic)"
        )
    return RestorationFile(opened, facts, _digest(path))


def _digest(path: Path) -> bytes:
    """Of a file and its weights beside it."""
    total = hashlib.sha256()
    for part in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        with part.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.digest()
