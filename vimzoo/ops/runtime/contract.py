"""The arguments that each operator accepts, declared once per operator and checked inside it.

C and GPU kernels trust every size that they are given. Therefore ranks, sizes, dtypes, devices and tables are checked
before any backend runs, whether ``torch.ops.vimzoo.X`` is called from Python, by a traced or scripted model, or by an
exported program. A call whose arguments look like those of an earlier call costs one lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

try:  # what `torch.onnx.is_in_onnx_export` reads, without its two imports per call
    from torch.onnx._internal.exporter import _flags
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    def _in_onnx_export() -> bool:
        return GLOBALS.in_onnx_export or _flags._is_onnx_exporting

    _in_onnx_export()
except (ImportError, AttributeError):
    _in_onnx_export = torch.onnx.is_in_onnx_export

Given = Mapping[str, Any]
"""The arguments of a call by name."""
MOST_REMEMBERED = 4096
"""How many kinds of accepted calls an operator remembers."""


@dataclass(frozen=True)
class Dtype:
    """A rule for a tensor's dtype."""

    fits: Callable[[Tensor, Given], bool]
    expected: Callable[[Given], str]


ANY = Dtype(lambda t, given: True, lambda given: "any dtype")
FLOATING = Dtype(lambda t, given: t.is_floating_point(), lambda given: "a floating-point tensor")
NUMBERS = Dtype(
    lambda t, given: t.is_floating_point() or t.is_complex(), lambda given: "real or complex values"
)
WHOLE = Dtype(
    lambda t, given: t.dtype in (torch.int32, torch.int64), lambda given: "token numbers, int32 or int64"
)


def like(name: str) -> Dtype:
    """The dtype of the argument ``name``."""
    return Dtype(
        lambda t, given: t.dtype == given[name].dtype,
        lambda given: f"the dtype of {name}, {given[name].dtype}",
    )


def exactly(dtype: Callable[[Given], torch.dtype]) -> Dtype:
    """The dtype that ``dtype`` computes from the other arguments."""
    return Dtype(lambda t, given: t.dtype == dtype(given), lambda given: f"{dtype(given)}")


class Contract:
    """The arguments that ``vimzoo::op`` accepts.

    Args:
        op: name of the operator; its schema has to be defined.
        tensors: argument -> its axes and dtype, in the order of the checks. Axes are letters, which mean the same size
            everywhere; ``K?`` may be 1 as well, ``*`` may be anything, ``...`` is any number of axes, and ``|``
            separates alternatives of different rank. Other names are looked up in ``sizes``.
        sizes: name of an axis -> its size, computed from the arguments when a tensor has such an axis.
        rest: checks that concern more than one tensor; raises ``ValueError``.
    """

    def __init__(
        self,
        op: str,
        tensors: Mapping[str, tuple[str, Dtype]],
        sizes: Mapping[str, Callable[[Given], int]] | None = None,
        rest: Callable[[Given], None] = lambda given: None,
    ) -> None:
        schema = getattr(torch.ops.vimzoo, op).default._schema
        self.op = op
        self.names = [argument.name for argument in schema.arguments if argument.name != "backend"]
        self.tensors = {name: (_alternatives(axes), dtype) for name, (axes, dtype) in tensors.items()}
        self.sizes = sizes or {}
        self.rest = rest
        self._table = self.names.index("table") if "table" in self.names else None
        self._x = self.names.index("x") if "x" in self.names else 0
        self._seen: set[tuple] = set()

    def check(self, *args: Any) -> None:
        """Check the arguments of a call, without ``backend``.

        Raises:
            ValueError: one of them does not fit; the message names it, what was expected and what was given.
        """
        self._refuse_onnx()
        self.check_arguments(*args)

    def check_arguments(self, *args: Any) -> None:
        """`check` for an operator that is written in PyTorch's own terms, which ONNX exporters may meet.

        Raises:
            ValueError: as in `check`.
        """
        given = dict(zip(self.names, args, strict=False))
        first = self.names[0]
        sizes: dict[str, Any] = {}
        for name, (alternatives, dtype) in self.tensors.items():
            tensor = given[name]
            if tensor is not None:
                _check_place(name, tensor, first, given[first])
                self._check_axes(name, tensor, alternatives, sizes, given)
                if not dtype.fits(tensor, given):
                    _refuse(name, tensor, dtype.expected(given))
        self.rest(given)

    def check_once(self, *args: Any) -> None:
        """`check`, unless a call with the same sizes, dtypes, devices and settings has passed; and `check_table`."""
        self._refuse_onnx()
        key = tuple([
            (a.shape, a.dtype, a.device, a.layout) if isinstance(a, Tensor) else tuple(a) if type(a) is list else a
            for a in args
        ])  # fmt: skip
        if key not in self._seen:
            self.check(*args)
            if len(self._seen) >= MOST_REMEMBERED:
                self._seen.clear()
            self._seen.add(key)
        if self._table is not None and args[self._table] is not None:
            check_table(args[self._table], args[self._x].shape[1])

    def _refuse_onnx(self) -> None:
        if _in_onnx_export():  # our own exporters have replaced the operators by then
            raise RuntimeError(
                f"torch.onnx.export: ONNX has no operator vimzoo::{self.op}. `python -m vimzoo.export MODEL` writes "
                "ONNX files of standard operators; for a network of your own use vimzoo.exporting.to_program and "
                "save_onnx, see docs/export.md"
            )

    def _check_axes(
        self, name: str, tensor: Tensor, alternatives: list[list[str]], sizes: dict[str, Any], given: Given
    ) -> None:
        for axes in alternatives:
            open_ended = axes[0] == "..."
            named = axes[1:] if open_ended else axes
            if tensor.dim() == len(named) or (open_ended and tensor.dim() > len(named)):
                break
        else:
            self._refuse_axes(name, tensor, alternatives, sizes, given)
        leading = tuple(tensor.shape[: tensor.dim() - len(named)])
        if open_ended and leading != sizes.setdefault("...", leading):
            self._refuse_axes(name, tensor, alternatives, sizes, given)
        for axis, size in zip(named, tensor.shape[tensor.dim() - len(named) :], strict=True):
            letter = axis.removesuffix("?")
            if letter not in sizes:
                sizes[letter] = self.sizes[letter](given) if letter in self.sizes else size
            if size != sizes[letter] and letter != "*" and not (axis != letter and size == 1):
                self._refuse_axes(name, tensor, alternatives, sizes, given)

    def _refuse_axes(
        self, name: str, tensor: Tensor, alternatives: list[list[str]], sizes: dict[str, Any], given: Given
    ) -> None:
        used = {axis.removesuffix("?") for axes in alternatives for axis in axes}
        sizes = {letter: size(given) for letter, size in self.sizes.items() if letter in used} | sizes

        def written(axis: str) -> str:
            letter = axis.removesuffix("?")
            size = str(sizes.get(letter, letter)) if letter != "*" else "any"
            size = f"{letter} = {size}" if len(letter) > 1 and letter in sizes and letter != "..." else size
            return f"{size} or 1" if axis != letter else size

        def of(axes: list[str]) -> str:
            if axes[0] == "..." and "..." in sizes:
                axes = [*map(str, sizes["..."]), *axes[1:]]
            return f"({', '.join(map(written, axes))}{',' if len(axes) == 1 else ''})"

        _refuse(name, tensor, " or ".join(map(of, alternatives)))


def _alternatives(axes: str) -> list[list[str]]:
    return [alternative.split() for alternative in axes.split("|")]


def _refuse(name: str, tensor: Tensor, expected: str) -> None:
    raise ValueError(f"{name}: expected {expected}, got shape {tuple(tensor.shape)} of {tensor.dtype}")


def _check_place(name: str, tensor: Tensor, first: str, of: Tensor) -> None:
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got one of layout {tensor.layout}")
    if tensor.device != of.device and not (name == "table" and tensor.is_cpu):
        raise ValueError(
            f"{name}: expected a tensor on the device of {first}, {of.device}, got one on {tensor.device}"
        )


_RANGES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Table -> its version when it was last read, and its smallest and largest entry."""


def check_table(table: Tensor, tokens: int) -> None:
    """Check that a table holds only pads (-1) and tokens ``0..tokens - 1``; its entries are read once per version.

    Raises:
        ValueError: it holds another number.
    """
    if not table.numel():
        return
    version = None if table.is_inference() else table._version
    known = _RANGES.get(table)
    if known is None or known[0] != version or version is None:
        low, high = torch.aminmax(table)
        known = version, int(low), int(high)
        _RANGES[table] = known
    if known[1] < -1 or known[2] >= tokens:
        raise ValueError(
            f"table: expected tokens 0..{tokens - 1}, or -1 for a pad, got {known[1]}..{known[2]}"
        )
