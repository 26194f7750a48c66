"""Writes a model in a format, and keeps the file only if it agrees with the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vimzoo.errors import Failure, UsageError
from vimzoo.files import remove, unfinished
from vimzoo.models.inputs import ModelWithInputs, input_shapes, inputs_of
from vimzoo.models.opening import find_model
from vimzoo.ops.runtime.threads import counted
from vimzoo.quantization import KINDS
from vimzoo.quantization import quantize as quantize_model

from .check import (
    Check,
    bound_of,
    coarsest,
    compare,
    compare_everywhere,
    example_shapes,
    milliseconds,
    options_of,
    random_inputs,
    said,
)
from .formats import FORMATS
from .opening import build
from .progress import Say, step
from .record import Format, Run, Shapes, Source


class ExportError(Failure):
    """A model cannot be written in a format, or the file differs from it; the message says how."""


@dataclass(frozen=True)
class Written:
    """A file and its measurements.

    Attributes:
        path: The file.
        worst: The largest difference from PyTorch.
        shapes: Of the timed inputs, ``(B, C, H, W)`` of images.
        milliseconds: Time of one call of the file.
        torch_milliseconds: Time of one call of the model.
        companions: Files that belong to it.
    """

    path: Path
    worst: Check
    shapes: Shapes
    milliseconds: float
    torch_milliseconds: float
    companions: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the file and its companions."""
        files = self.path.rglob("*") if self.path.is_dir() else (self.path, *self.companions)
        return sum(file.stat().st_size for file in files if file.is_file())

    def __str__(self) -> str:
        of = "" if self.worst.share == 1 else f" in {self.worst.share:.0%} of the values"
        return (
            f"{self.path}  {self.bytes / 1e6:.1f} MB\n"
            f"  largest difference{of} {self.worst.difference:.1e} of the output's spread, "
            f"on inputs {said(self.worst.shapes)}\n"
            f"  {self.milliseconds:.1f} ms for inputs {said(self.shapes)} on {counted(torch.get_num_threads())}; "
            f"PyTorch with vimzoo {self.torch_milliseconds:.1f} ms"
        )


def parse_size(text: str) -> tuple[int, int] | str:
    """``dynamic``, ``224`` or ``480x640`` (height x width).

    Raises:
        UsageError: anything else.
    """
    if text == "dynamic":
        return text
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--size {text}: expected dynamic, a number of pixels, or HEIGHTxWIDTH")
    return int(parts[0]), int(parts[-1])


def find_format(name: str) -> Format:
    """The format of that name, if what it requires is installed.

    Raises:
        UsageError: there is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise UsageError(f"--format {name}: expected one of {', '.join(FORMATS)}")
    if missing := FORMATS[name].missing():
        extra = FORMATS[name].extra
        raise UsageError(f"--format {name}: needs {', '.join(missing)}; pip install 'vimzoo[{extra}]'")
    return FORMATS[name]


def load(path: str | Path, kind: str) -> Run:
    """A file that `export` or one of the ``save_`` functions wrote, as a function of images ``(B, C, H, W)``.

    If the model takes several inputs, or others, so does the function, in the same order.

    Args:
        path: The file.
        kind: Its format, one of `FORMATS`.

    Raises:
        UsageError: there is no such format, or a package is missing.
    """
    return find_format(kind).load(Path(path))


def export(
    name: str,
    kind: str = "onnx",
    output: Path | str | None = None,
    *,
    checkpoint: str | None = None,
    random: bool = False,
    size: tuple[int, int] | str | None = None,
    routing: str | None = None,
    quantize: str | None = None,
    say: Say | None = None,
    **variants: bool,
) -> list[Written]:
    """Write a model and compare the file with PyTorch before it is moved into place.

    Args:
        name: A model's name as timm knows it, or a folder; see `build`.
        kind: One of `FORMATS`.
        output: A file, or a folder that exists; by default the current folder. In a folder the file has the model's
            registered name.
        checkpoint: A file of weights; by default the published ones.
        random: Initial weights instead.
        size: ``"dynamic"`` for any size, or height and width in pixels. By default a model that takes any size is
            written for any, another one for its own size.
        routing: ``"argmax"`` for a MambaIRv2, which is written so in any case: without it, weights that were not
            trained so get a notice on stderr.
        quantize: A kind of `vimzoo.quantize`, which the model goes through first; the name of the kind becomes a part
            of the file's default name.
        say: Is given a line of text now and then while a step takes long; None for silence.
        variants: Further files that the format can make, by name: ``int8=True`` also writes an ONNX file with 8-bit
            weights.

    Returns:
        The file written, then its variants.

    Raises:
        UsageError: the request cannot be met.
        ExportError: the model cannot be written in this format, or the file differs by more than `bound_of` allows; if
            the model rounds activations, by more than `vimzoo.quantize` changed it.
    """
    form = find_format(kind)
    if form.prepare is not None:
        form.prepare()
    wanted = [variant for variant, asked in variants.items() if asked]
    for variant in wanted:
        if variant not in form.variants:
            able = " or ".join(f.name for f in FORMATS.values() if variant in f.variants) or "none"
            raise UsageError(f"--{variant}: needs --format {able}, got {kind}")
    if quantize is not None and quantize not in KINDS:
        raise UsageError(f"--quantize {quantize}: expected one of {', '.join(KINDS)}")
    found = find_model(name, "MODEL")
    architecture = found.name or name.rpartition("/")[2]
    path = Path(output or "")
    if path.is_dir():
        path /= ".".join([architecture, *filter(None, [quantize])]) + form.suffix
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}")
    if form.folder and path.exists():
        raise UsageError(f"--output {path}: exists; expected the name of a new folder")
    model = build(name, checkpoint, random, size, routing)
    size = default_size(name, model) if size is None else checked_size(name, model, size)
    calls, bound = example_shapes(model, size), bound_of(model)
    if quantize is not None:
        model, bound = quantized(model, quantize, calls)
    examples = random_inputs(calls[0], 0)
    example = examples[0] if len(examples) == 1 else examples
    source = Source(model, example, size == "dynamic", describe(architecture, model, size, quantize))
    with unfinished(path, form.suffix) as file, ExitStack() as stack:
        for new, to in zip(beside(file, form), beside(path, form), strict=True):
            stack.enter_context(moved(new, to))
        try:
            with step(f"writing {path.name}", say):
                form.save(source, file)
            with step(f"comparing {path.name} with PyTorch", say):
                run = form.load(file)
                worst = compare_everywhere(form, file, run, model, calls)
        except (ImportError, MemoryError, UsageError):
            raise
        except Exception as error:  # exporters and runtimes raise anything
            raise ExportError(f"--format {kind}: {name} cannot be written: {summary(error)}") from error
        if not worst.difference <= bound:
            where = f" in {worst.runtime}" if worst.runtime else ""
            raise ExportError(
                f"{kind}: differs from PyTorch{where} by {worst.difference:.1e} of the spread on inputs "
                f"{said(worst.shapes)}; expected at most {bound:.0e}, nothing was written"
            )
    written = [replace(measured(path, run, model, worst, calls[-1]), companions=beside(path, form))]
    for variant in wanted:
        other = path.with_suffix(form.variants[variant].suffix)
        with step(f"writing {other.name}", say), unfinished(other, form.variants[variant].suffix) as file:
            form.variants[variant].make(path, file)
        with step(f"comparing {other.name} with PyTorch", say):
            run = form.load(other)
            worst = compare(run, model, calls)
        written.append(measured(other, run, model, worst, calls[-1]))
    return written


def quantized(model: nn.Module, kind: str, calls: Sequence[Shapes]) -> tuple[nn.Module, float]:
    """A model with small weights, and the bound for its files.

    Where activations are rounded, a difference in the last bit of a sum decides how a number is rounded, and grows from
    layer to layer. Such files may differ by as much as rounding changed the model.

    Raises:
        UsageError: the model has no linear layers, or weights that are not finite.
    """
    try:
        small = quantize_model(model, kind)
    except ValueError as error:
        raise UsageError(f"--quantize {kind}: {error}") from error
    rounds = KINDS[kind].get("activations", "float") != "float"
    return small, max(bound_of(model), compare(model, small, calls).difference if rounds else 0.0)


def beside(path: Path, form: Format) -> tuple[Path, ...]:
    """The companions of a file."""
    return tuple(path.with_suffix(suffix) for suffix in form.companions)


@contextmanager
def moved(file: Path, to: Path) -> Iterator[None]:
    """Moves a file that the block has written to ``to``; removes it if the block raises."""
    try:
        yield
        file.replace(to)
    finally:
        remove(file)


def default_size(name: str, model: nn.Module) -> tuple[int, int] | str | None:
    """Any size, if the model and its files take any and such a file could take the model's own; None: the model's."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if cfg.get("fixed_input_size") or options_of(model).one_size or not has_sides(model):
        return None
    height, width = cfg["input_size"][1:]
    smallest = 2 * coarsest(model)
    if min(height, width) >= smallest:
        return "dynamic"
    print(
        f"{name}: written for {height} x {width} pixels, at which a side of its last map is one position; "
        f"--size dynamic writes it for sizes from {smallest} on",
        file=sys.stderr,
    )
    return height, width


def has_sides(model: nn.Module) -> bool:
    """Whether an input has a height and a width."""
    return any(each.scale for each in inputs_of(model).values())


def checked_size(name: str, model: nn.Module, size: tuple[int, int] | str) -> tuple[int, int] | str:
    """The size that a user has chosen.

    Raises:
        UsageError: the model has no input with a height and a width, or its files cannot take any size.
    """
    if not has_sides(model):
        raise UsageError(f"--size: {name} has no input with a height and a width; expected no --size")
    if size == "dynamic" and options_of(model).one_size:
        raise UsageError(
            f"--size dynamic: a file of {name} takes one size, because the paths of its scans have no closed form; "
            "expected PIXELS or HEIGHTxWIDTH"
        )
    return size


def describe(
    name: str, model: nn.Module, size: tuple[int, int] | str | None, kind: str | None = None
) -> dict[str, Any]:
    """The metadata of a file: timm's facts about images, and the classes with their names, or the scale.

    Of other inputs only their names and shapes.
    """
    cfg: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[arg-type]
    if isinstance(size, tuple):
        cfg["input_size"] = (cfg["input_size"][0], *size)
    kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "label_names")
    facts = {"model": name} | ({"quantize": kind} if kind else {})
    if isinstance(model, ModelWithInputs):
        return facts | {"inputs": input_shapes(model, None if size == "dynamic" else size)}  # type: ignore[arg-type]
    facts |= {key: cfg[key] for key in kept if cfg.get(key) is not None}
    own = ("num_classes", "scale", "multiple_of", "num_frames")
    return facts | {key: getattr(model, key) for key in own if hasattr(model, key)}


def measured(path: Path, run: Run, model: nn.Module, worst: Check, shapes: Shapes) -> Written:
    """The record of a file that ``run`` runs, with the times of both."""
    return Written(path, worst, shapes, milliseconds(run, shapes), milliseconds(model, shapes))


def summary(error: BaseException) -> str:
    """An exporter's error in one line: the type and the telling line of its first cause."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TorchScript puts the message after the code that raised it
    text = lines[-1] if isinstance(error, torch.jit.Error) and lines else (lines or [""])[0]
    return f"{type(error).__name__}: {text[:300]}"
