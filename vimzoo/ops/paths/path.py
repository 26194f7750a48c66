"""The papers' sets of paths, and the tables by which the ops read paths that have no closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from operator import index
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends import Unsupported
from .orders import PAD, Axes, Padded
from .scan_path import (
    COLUMN,
    COLUMN_REVERSED,
    NAMED,
    ROW,
    ROW_REVERSED,
    TABLE,
    ScanPath,
    check_rank,
    grid_name,
)

__all__ = [
    "ATROUS",
    "BACKWARD",
    "BIDIRECTIONAL",
    "COLUMN",
    "COLUMN_REVERSED",
    "CROSS",
    "CROSS_3D",
    "FORWARD",
    "MOST_TOKENS",
    "ROW",
    "ROW_REVERSED",
    "SLICES",
    "SNAKES",
    "TABLE",
    "ScanPath",
    "checked_paths",
    "grid_arguments",
    "grid_codes",
    "grid_table",
    "kernel_table",
    "named_table",
    "pad_paths",
    "path_arguments",
    "path_codes",
    "path_moves",
    "path_names",
    "path_steps",
    "path_table",
    "tokens_from_codes",
]

MOST_TOKENS = 2**31
"""Tokens that an int32 table can number."""

FORWARD = ScanPath("row")
BACKWARD = ScanPath("row", reverse=True)
BIDIRECTIONAL = (FORWARD, BACKWARD)
"""Vim's two directions along a sequence (Zhu et al. 2024, algorithm 1)."""
CROSS = (FORWARD, ScanPath("column"), BACKWARD, ScanPath("column", reverse=True))
"""VMamba's four directions over a map (Liu et al. 2024, section 4.2), in the order of its weights."""
_AXES = (ScanPath.axes(0, 1, 2), ScanPath.axes(2, 0, 1), ScanPath.axes(1, 2, 0))
CROSS_3D = (*_AXES, *(path.reversed() for path in _AXES))
"""Six directions of a volume: along W, along H and along D, and the three backward; `CROSS` with a third axis."""
SLICES = (FORWARD, BACKWARD, ScanPath.axes(1, 2, 0))
"""SegMamba's three directions of a volume: forward, backward, and through the slices (Xing et al. 2024)."""
SNAKES = tuple(
    path for by in ("row", "column") for path in (ScanPath.snake(by), ScanPath.snake(by).reversed())
)
"""PlainMamba's four continuous directions (Yang et al. 2024, section 3.2), in its order."""
ATROUS = (
    ScanPath.stride(2, 0, 0),
    ScanPath.stride(2, 1, 0, along=ScanPath("column")),
    ScanPath.stride(2, 0, 1),
    ScanPath.stride(2, 1, 1, along=ScanPath("column")),
)
"""EfficientVMamba's four sub-grids (Pei et al. 2024, section 3.2), in the order of its weights."""


def checked_paths(paths: Any) -> tuple[ScanPath, ...]:
    """An argument ``paths`` as a tuple.

    Raises:
        ValueError: it is not one scan path or more.
    """
    found = tuple(paths) if isinstance(paths, Iterable) else ()
    if not found or not all(isinstance(path, ScanPath) for path in found):
        raise ValueError(f"paths: expected one or more of ScanPath, got {paths!r}")
    return found


def pad_paths(paths: Sequence[ScanPath]) -> tuple[ScanPath, ...]:
    """``paths`` with pads after the ends of the shorter ones, so that on every grid all have the same number of steps.

    Pads at the end change no other step. LocalVMamba scans rows beside windows of a padded map like this.

    Raises:
        ValueError: ``paths`` is not one scan path or more.
    """
    paths = checked_paths(paths)
    all_paths = frozenset(paths)
    return tuple(
        path if len(all_paths) == 1 else ScanPath.from_function(Padded(path, all_paths)) for path in paths
    )


def path_codes(paths: Sequence[ScanPath]) -> list[int]:
    """The codes of ``paths``, as the ops' schema takes them."""
    return [path.code for path in paths]


@lru_cache(maxsize=1024)
def _stacked(paths: tuple[ScanPath, ...], *sizes: int) -> np.ndarray:
    steps = [path.walk(*sizes) for path in paths]
    if len({len(tokens) for tokens in steps}) > 1:
        raise ValueError(f"paths: all need the same number of steps, got {[len(tokens) for tokens in steps]}")
    return np.stack(steps).astype(np.int32 if prod(sizes) <= MOST_TOKENS else np.int64)


@lru_cache(maxsize=1024)
def _visits(paths: tuple[ScanPath, ...], *sizes: int) -> np.ndarray:
    count, found = prod(sizes), []
    for path in paths:
        tokens = path.walk(*sizes)
        steps = np.flatnonzero(tokens != PAD)
        if not np.array_equal(np.sort(tokens[steps]), np.arange(count)):
            raise ValueError(f"paths: one does not visit every token of a {grid_name(sizes)} grid once")
        found.append(steps[np.argsort(tokens[steps])])
    return np.stack(found)


@lru_cache(maxsize=1024)
def _moves(paths: tuple[ScanPath, ...], height: int, width: int) -> np.ndarray:
    _visits(paths, height, width)  # every token is reached once
    found = np.zeros((len(paths), height * width), dtype=np.int64)
    for path, moves in zip(paths, found, strict=True):
        tokens = path.walk(height, width)
        down, right = np.diff(tokens // width), np.diff(tokens % width)
        moves[tokens[1:]] = np.select([right > 0, right < 0, down < 0], [1, 2, 3], 4)
    return found


_BUILDERS = {"tokens": _stacked, "steps": _visits, "moves": _moves}
_TABLES: dict[tuple, Tensor] = {}


def _table(kind: str, sizes: tuple[int, ...], device: str, paths: tuple[ScanPath, ...]) -> Tensor:
    """The table of ``paths`` on ``device``, made once; ``kind`` is a key of `_BUILDERS`."""
    key = (kind, paths, sizes, device)
    if key in _TABLES:
        return _TABLES[key]
    # tables are constants of a trace; without this the first trace would record how one is made
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        # a table made in inference mode could not be saved for a backward pass later
        with torch.inference_mode(False):
            table = torch.from_numpy(_BUILDERS[kind](paths, *sizes)).to(device)
    finally:
        torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]
    if type(table) is Tensor:  # fake tensors must not outlive their mode
        while len(_TABLES) >= 256:
            del _TABLES[next(iter(_TABLES))]
        _TABLES[key] = table
    return table


_COMPILED = SimpleNamespace()
"""Tables that compiled code reads. Each is an attribute, because Dynamo can guard those."""


@torch.compiler.assume_constant_result
def _attribute(kind: str, sizes: tuple[int, ...], device: str, *names: str) -> str:
    """The attribute of `_COMPILED` that holds the table of the paths of these names: a constant to the compiler."""
    table = named_table(kind, names, sizes, device)
    name = f"table_{id(table)}"
    setattr(_COMPILED, name, table)
    return name


def _constant(
    kind: str, paths: Sequence[ScanPath], sizes: Sequence[int], device: torch.device | str
) -> Tensor:
    """`_table`, also under the compiler."""
    grid = tuple([index(size) for size in sizes])
    if torch.compiler.is_dynamo_compiling():
        return getattr(_COMPILED, _attribute(kind, grid, str(device), *path_names(paths)))
    return _table(kind, grid, str(device), tuple(paths))


def path_names(paths: Sequence[ScanPath]) -> list[str]:
    """Names by which `named_table` finds paths as long as they exist, in this process."""
    return [path._name for path in paths]  # type: ignore[attr-defined]


def named_table(kind: str, names: Sequence[str], sizes: Sequence[int], device: str) -> Tensor:
    """The table of `path_arguments` (``"tokens"``), `path_steps` (``"steps"``) or `path_moves` (``"moves"``)."""
    return _table(kind, tuple(sizes), device, tuple(NAMED[name] for name in names))


def path_arguments(
    paths: Sequence[ScanPath], height: int, width: int, device: torch.device | str = "cpu"
) -> tuple[list[int], Tensor | None]:
    """``paths`` on a grid in the form of the ops' schema: codes, and the table ``(K, T)``, int32, on ``device``.

    The table is ``None`` if every path has a closed form; otherwise it is built once per grid and device. Under
    ``torch.compile`` it is a constant, so that ``height`` and ``width`` become fixed.

    Raises:
        ValueError: the paths have different numbers of steps (see `pad_paths`), or visit tokens outside the grid.
    """
    codes = path_codes(paths)
    return codes, _constant("tokens", paths, (height, width), device) if TABLE in codes else None


def grid_codes(paths: Sequence[ScanPath], axes: int) -> tuple[list[int], int]:
    """How the ops, which know maps, read a grid of any rank.

    A grid is shown to them as a map: its leading axes are the rows, the others the columns. Volumes of which one order
    besides rows is read, such as ``(1, 2, 0)`` and its reverse, have closed forms then.

    Args:
        paths: The paths.
        axes: Number of axes of the grid.

    Returns:
        The codes of the paths on that map, and the number of leading axes. A code `TABLE` stands for a path that needs
        a table.

    Raises:
        ValueError: a path is for grids of another rank.
    """
    cuts = set()
    for path in paths:
        check_rank(path, axes)
        if isinstance(path.table, Axes):
            cuts.add(path.table.cut)
    cut = cuts.pop() if len(cuts) == 1 else None
    if cut is None:
        return path_codes(paths), axes - 1
    return [
        COLUMN + int(path.reverse) if path.code == TABLE and path.rank else path.code for path in paths
    ], cut


def grid_arguments(
    paths: Sequence[ScanPath], sizes: Sequence[int], device: torch.device | str = "cpu"
) -> tuple[list[int], Tensor | None, int, int]:
    """`path_arguments` on a grid of any rank, and the height and width of the map that stands for it in the ops.

    Args:
        paths: The paths.
        sizes: Of the grid, such as ``(D, H, W)``.
        device: Of the table.

    Raises:
        ValueError: as `path_arguments`, or a path is for grids of another rank.
    """
    if len(sizes) == 2:
        return *path_arguments(paths, sizes[0], sizes[1], device), sizes[0], sizes[1]
    codes, cut = grid_codes(paths, len(sizes))
    table = grid_table(paths, sizes, device) if TABLE in codes else None
    height = width = 1
    for axis, size in enumerate(sizes):
        height, width = (height * size, width) if axis < cut else (height, width * size)
    return codes, table, height, width


def grid_table(paths: Sequence[ScanPath], sizes: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """The table of `grid_arguments`, ``(K, T)``, int32, whether the paths need it or not; cached.

    Raises:
        ValueError: as `grid_arguments`.
    """
    return _constant("tokens", paths, sizes, device)


def path_steps(
    paths: Sequence[ScanPath], height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The step at which each path visits each token, int64 ``(K, H W)``, on ``device``; cached as tables are.

    Raises:
        ValueError: a path leaves a token out, or visits one twice.
    """
    return _constant("steps", paths, (height, width), device)


def path_moves(
    paths: Sequence[ScanPath], height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """How continuous paths without pads reach each token, int64 ``(K, H W)``; cached as tables are.

    0 is a path's start, 1 a step to the right, 2 to the left, 3 up and 4 down.

    Raises:
        ValueError: a path leaves a token out, or visits one twice.
    """
    return _constant("moves", paths, (height, width), device)


def path_table(paths: Sequence[ScanPath], height: int, width: int) -> Tensor | None:
    """The table of `path_arguments`, on CPU."""
    return path_arguments(paths, height, width)[1]


def kernel_table(table: Tensor, tokens: int, device: torch.device | str) -> Tensor:
    """``table`` as the kernels read it: int32, dense, on ``device``.

    Raises:
        Unsupported: numbers of so many ``tokens`` do not fit.
    """
    if tokens > MOST_TOKENS:
        raise Unsupported(f"a table for {tokens} tokens; at most {MOST_TOKENS}")
    return table.to(device=device, dtype=torch.int32).contiguous()


def tokens_from_codes(codes: Sequence[int], table: Tensor | None, height: int, width: int) -> Tensor:
    """Token numbers int64 ``(K, T)`` from the arguments of the op: closed-form codes, or a table."""
    if table is not None:
        return table.long()
    grid = torch.arange(height * width).view(height, width)
    closed = [(grid.T if code >= COLUMN else grid).flatten() for code in codes]
    return torch.stack(
        [tokens.flip(0) if code & 1 else tokens for tokens, code in zip(closed, codes, strict=True)]
    )
