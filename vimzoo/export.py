"""Write a model as a file that runs elsewhere: ``python -m vimzoo.export MODEL --format onnx``.

The file is run and compared with the model before it gets its name; what differs, how large it is and how fast it runs
is printed.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vimzoo import exporters

from .commands import run_command
from .ops.runtime.threads import counted

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".aoti.pt2", "torchscript": ".ts"}
"""Format -> how its files are called."""
ROUTED = 0.95
"""Share of the output that must agree where a model routes tokens: the last bit of a score may send one elsewhere."""
BOUND = 3e-5
"""Largest difference from PyTorch that a written file may have, as a share of the output's standard deviation."""
WEIGHTS = "--checkpoint FILE takes a file, --random initial weights"


class ExportError(Exception):
    """A request that cannot be met; the message names the argument, what came and what was expected."""


@dataclass(frozen=True)
class Check:
    """How a file compares with the model it was made from on images of one shape."""

    shape: tuple[int, ...]
    difference: float  # largest, as a share of the output's standard deviation
    share: float = 1.0  # of the output, that part which differs least


@dataclass(frozen=True)
class Written:
    """A file and what was measured with it."""

    path: Path
    worst: Check
    shape: tuple[int, ...]  # of the timed images
    milliseconds: float
    torch_milliseconds: float  # of the model itself

    def __str__(self) -> str:
        of = "" if self.worst.share == 1 else f" in {self.worst.share:.0%} of the values"
        return (
            f"{self.path}  {self.path.stat().st_size / 1e6:.1f} MB\n"
            f"  largest difference{of} {self.worst.difference:.1e} of the output's spread, "
            f"on images {self.worst.shape}\n"
            f"  {self.milliseconds:.1f} ms for images {self.shape} on {counted(torch.get_num_threads())}; "
            f"PyTorch with vimzoo {self.torch_milliseconds:.1f} ms"
        )


def parse_size(text: str) -> tuple[int, int] | str:
    """``dynamic``, ``224`` or ``480x640`` (height x width).

    Raises:
        ExportError: anything else.
    """
    if text == "dynamic":
        return text
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ExportError(f"--size {text}: expected dynamic, a number of pixels, or HEIGHTxWIDTH")
    return int(parts[0]), int(parts[-1])


def locate(name: str) -> tuple[str, str]:
    """What ``timm.create_model`` takes for ``name``, and the registered name behind it.

    Args:
        name: a registered one, or a folder with ``config.json``, as timm and finished runs (in ``model/``) save models.

    Raises:
        ExportError: neither, or a folder without such a file.
    """
    if timm.is_model(name):
        return name, name
    given = Path(name.removeprefix("local-dir:"))
    folder = given if (given / "config.json").is_file() else given / "model"
    if given.is_dir():
        try:
            return f"local-dir:{folder}", json.loads((folder / "config.json").read_text())["architecture"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            expected = "expected a finished run's folder, or one that timm saved a model in"
            raise ExportError(f"MODEL {name}: no config.json that names a model; {expected}") from error
    known = timm.list_models(module=["vim", "vmamba", "mambair"])
    near = difflib.get_close_matches(name, known, 4, 0.4) or difflib.get_close_matches(
        name, timm.list_models(), 4
    )
    raise ExportError(f"MODEL {name}: no such model or folder; near it: {', '.join(near) or 'none'}")


def build(name: str, checkpoint: str | None, random: bool, size: tuple[int, int] | str | None) -> nn.Module:
    """The model to be written, in evaluation mode.

    Args:
        name: as `locate` takes it; a folder brings its weights.
        checkpoint: a file of weights; without it the published ones.
        random: initial weights instead.
        size: what `parse_size` returns; None is the model's own way.

    Raises:
        ExportError: no such model, weights that cannot be had, or a size that it does not take.
    """
    source, architecture = locate(name)
    own = source != architecture
    if own and (checkpoint is not None or random):
        given = "--random" if random else f"--checkpoint {checkpoint}"
        raise ExportError(f"{given}: {name} is a folder and brings its weights; expected neither option")
    cfg = timm.get_pretrained_cfg(architecture)
    options: dict[str, Any] = {}
    if cfg is not None and cfg.fixed_input_size and size is not None:
        options |= {"dynamic_img_size": True} if size == "dynamic" else {"img_size": size}
    if "mambairv2" in architecture:
        options["routing"] = "argmax"  # a file draws no random numbers
    if not (own or random or checkpoint or (cfg is not None and cfg.has_weights)):
        raise ExportError(f"MODEL {name}: its weights are published nowhere; {WEIGHTS}")
    if checkpoint is not None:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": checkpoint}}
    elif not random:
        options["pretrained"] = True
    try:
        return timm.create_model(source, **options).eval()
    except Exception as error:  # a hub's errors have no common ancestor
        hint = "" if checkpoint or own else f"; {WEIGHTS}"
        raise ExportError(f"MODEL {name}: {error}{hint}") from error


def coarsest(model: nn.Module) -> int:
    """Pixels from one position of the smallest map to the next."""
    return max(info["reduction"] for info in getattr(model, "feature_info", None) or [{"reduction": 1}])


def image_shapes(model: nn.Module, size: tuple[int, int] | str | None) -> list[tuple[int, ...]]:
    """Shapes to export and to check with: the first is the example, the last has one image and is timed."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    channels, height, width = cfg["input_size"]
    if size == "dynamic":
        # torch.export would take a side of one position for a constant
        height, width = (max(side, 2 * coarsest(model)) for side in (height, width))
        odd = 1 if getattr(model, "multiple_of", 0) == 1 else 32
        sizes = [(height, width + 32), (height + 32, width), (height + odd, width + 96), (height, width)]
    else:
        sizes = [size if isinstance(size, tuple) else (height, width)] * 3
    return [(batch, channels, *hw) for batch, hw in zip((2, 3, 1, 1), sizes, strict=False)]


def describe(name: str, model: nn.Module) -> dict[str, Any]:
    """What goes into the file beside the weights: timm's facts on the input, classes and their names, or scale."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "label_names")
    facts = {"model": name, **{key: cfg[key] for key in kept if cfg.get(key) is not None}}
    return facts | {key: getattr(model, key) for key in ("num_classes", "scale") if hasattr(model, key)}


def write(model: nn.Module, kind: str, path: Path, shapes: Sequence[tuple[int, ...]], facts: dict[str, Any],
          dynamic: bool) -> None:  # fmt: skip
    """Export ``model`` in format ``kind`` to ``path``."""
    example = torch.rand(shapes[0], generator=torch.Generator().manual_seed(0))
    if kind == "torchscript":
        exporters.save_torchscript(model, path, facts, example)
        return
    program = exporters.to_program(model, example, dynamic_size=dynamic)
    savers = {"onnx": exporters.save_onnx, "pt2": exporters.save_pt2, "aoti": exporters.save_aoti}
    savers[kind](program, path, facts)


@torch.no_grad()
def compare(run: Callable[[Tensor], Tensor], model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> Check:
    """The worst of the comparisons of both on the same random images of every shape."""
    generator, checks = torch.Generator().manual_seed(1), []
    share = ROUTED if hasattr(model, "routing") else 1.0
    for shape in shapes:
        images = torch.rand(shape, generator=generator)
        want = model(images)
        differences = (run(images) - want).abs().flatten() / want.std()
        largest = differences.max()
        if share < 1 and largest.isfinite():
            largest = differences.kthvalue(math.ceil(share * differences.numel())).values
        checks.append(Check(shape, largest.item(), share))
    return max(checks, key=lambda check: check.difference)


@torch.no_grad()
def milliseconds(run: Callable[[Tensor], Tensor], shape: tuple[int, ...], rounds: int = 5) -> float:
    """Median time of a call."""
    images, times = torch.rand(shape), []
    run(images)
    for _ in range(rounds):
        start = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def export(
    name: str,
    kind: str = "onnx",
    output: Path | None = None,
    *,
    checkpoint: str | None = None,
    random: bool = False,
    size: tuple[int, int] | str | None = None,
    int8: bool = False,
) -> list[Written]:
    """Write a model and check the file against PyTorch before it gets its name.

    Args:
        name: the model as timm knows it, or a folder; see `locate`.
        kind: one of `FORMATS`.
        output: where to, a file or a folder that exists; by default the current folder. In a folder the file has the
            model's registered name.
        checkpoint, random, size: see `build`. By default a model that takes any size is written for any.
        int8: write a second ONNX file with 8-bit weights.

    Returns:
        The file written, and the second one with ``int8``.

    Raises:
        ExportError: a request that cannot be met, or a file that differs by more than `BOUND`.
    """
    if kind not in FORMATS:
        raise ExportError(f"--format {kind}: expected one of {', '.join(FORMATS)}")
    if int8 and kind != "onnx":
        raise ExportError(f"--int8: needs --format onnx, got {kind}")
    architecture = locate(name)[1]
    path = output or Path()
    if path.is_dir():
        path /= architecture + FORMATS[kind]
    if not path.parent.is_dir():
        raise ExportError(f"--output {path}: there is no folder {path.parent}")
    model = build(name, checkpoint, random, size)
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if size is None and not cfg.get("fixed_input_size"):
        size = "dynamic"
        if min(cfg["input_size"][1:]) < 2 * coarsest(
            model
        ):  # such a file would not take the model's own size
            size = cfg["input_size"][1:]
            print(
                f"{name}: written for {size[0]} x {size[1]} pixels, at which a side of its last map is one position; "
                f"--size dynamic writes it for sizes from {2 * coarsest(model)} on",
                file=sys.stderr,
            )
    shapes = image_shapes(model, size)
    unfinished = path.with_name("unfinished-" + path.name)  # the suffix says what it is
    try:
        try:
            write(model, kind, unfinished, shapes, describe(architecture, model), size == "dynamic")
            run = exporters.load(unfinished, kind)
            worst = compare(run, model, shapes)
        except (ExportError, ImportError, MemoryError):
            raise
        except Exception as error:  # exporters and runtimes raise what they like
            raise ExportError(f"--format {kind}: {name} cannot be written: {summary(error)}") from error
        if not worst.difference <= BOUND:
            raise ExportError(
                f"{kind}: differs from PyTorch by {worst.difference:.1e} of the spread on images "
                f"{worst.shape}; expected at most {BOUND:.0e}, nothing was written"
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    written = [measured(path, run, model, worst, shapes[-1])]
    if int8:
        small = path.with_suffix(".int8.onnx")
        exporters.quantise(path, small)
        run = exporters.load(small, "onnx")
        written.append(measured(small, run, model, compare(run, model, shapes), shapes[-1]))
    return written


def summary(error: Exception) -> str:
    """An exporter's error in one line: its type, and the last line that says something of its own first cause."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if isinstance(error, torch.jit.Error) and lines else (lines or [""])[0]
    return f"{type(error).__name__}: {text[:300]}"


def measured(
    path: Path, run: Callable[[Tensor], Tensor], model: nn.Module, worst: Check, shape: tuple[int, ...]
) -> Written:
    """The record of a file that ``run`` runs, with the times of both."""
    return Written(path, worst, shape, milliseconds(run, shape), milliseconds(model, shape))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m vimzoo.export", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a name that timm.list_models() knows, or a run's folder"
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights; default: the published ones")
    parser.add_argument("--random", action="store_true", help="initial weights")
    parser.add_argument("--size", help="dynamic, PIXELS or HEIGHTxWIDTH; default: whatever the model takes")
    parser.add_argument("--output", type=Path, metavar="FILE | FOLDER")
    parser.add_argument("--int8", action="store_true", help="also write an ONNX file with 8-bit weights")
    options = parser.parse_args(arguments)
    try:
        size = None if options.size is None else parse_size(options.size)
        written = export(
            options.model, options.format, options.output, checkpoint=options.checkpoint,
            random=options.random, size=size, int8=options.int8,
        )  # fmt: skip
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: {error}; pip install 'vimzoo[export]' brings what is missing", file=sys.stderr)
        return 1
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    run_command(main)
