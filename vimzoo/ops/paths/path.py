"""The order in which one direction of a state-space layer visits the tokens of a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from numbers import Integral
from operator import index
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from ..backends import Unsupported
from .orders import PAD, Diagonal, Hilbert, Moved, Padded, Snake, Spiral, Stride, Window, raster

ROW, ROW_REVERSED, COLUMN, COLUMN_REVERSED, TABLE = range(5)
MOST_TOKENS = 2**31
"""Tokens that an int32 table can number."""


_NUMBERS = count()
_NAMED: WeakValueDictionary[str, ScanPath] = WeakValueDictionary()
"""Live paths by unique name: Dynamo accepts strings as constants, but not arbitrary objects."""


@dataclass(frozen=True)
class ScanPath:
    """One scan order over an ``H x W`` grid whose tokens are numbered row by row.

    Rows, columns and their reverses have closed forms, which the ops read without an index. Any other order is a
    ``table``: token numbers for one grid (on a larger one it reads the tokens of these numbers alone), or a function
    ``(H, W) -> token numbers`` for all of them, such as the constructors below give. In token numbers ``-1`` is a pad
    (its input and projections are zero, its output is dropped), and tokens that are left out get zero. A sequence is a
    ``1 x L`` grid: ``ScanPath("row")`` reads it forward, ``ScanPath("row").reversed()`` backward. Paths are values:
    equal ones share one index table per grid.

    Raises:
        ValueError: if ``order`` is unknown, or ``table`` is given with another order than ``"table"``, missing, or
            not something that can be a dictionary key.
    """

    order: str = "row"
    reverse: bool = False
    table: tuple[int, ...] | Callable[[int, int], Any] | None = None

    def __post_init__(self) -> None:
        if self.order not in ("row", "column", "table"):
            raise ValueError(f"order: expected 'row', 'column' or 'table', got {self.order!r}")
        if not isinstance(self.reverse, bool):
            raise ValueError(f"reverse: expected True or False, got {self.reverse!r}")
        if (self.table is not None) != (self.order == "table"):
            raise ValueError(f"table: needed exactly when order is 'table', got order {self.order!r}")
        if not (self.table is None or isinstance(self.table, tuple) or callable(self.table)):
            raise ValueError(f"table: expected a tuple of token numbers or a function, got {self.table!r}")
        try:
            value = hash((self.order, self.reverse, self.table))
        except TypeError as error:
            raise ValueError(f"table: expected something hashable, got {self.table!r}") from error
        object.__setattr__(self, "_hash", value)  # a long table takes a tenth of a millisecond to hash
        object.__setattr__(self, "_name", f"path {next(_NUMBERS)}")
        _NAMED[self._name] = self  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __reduce__(self) -> tuple:  # hashes differ from process to process
        return ScanPath, (self.order, self.reverse, self.table)

    @classmethod
    def from_table(cls, table: Sequence[int] | Tensor | np.ndarray) -> ScanPath:
        """A path that visits the tokens ``table``, in that order; ``-1`` is a pad.

        Raises:
            ValueError: if ``table`` is not a list of whole numbers.
        """
        return cls("table", table=tuple(_whole_numbers(table).tolist()))

    @classmethod
    def from_function(cls, function: Callable[[int, int], Any]) -> ScanPath:
        """A path for every grid: ``function(H, W)`` gives its token numbers, which are then kept.

        Two such paths are equal if their functions are: pass one that has a name, not a new lambda for every call.
        """
        return cls("table", table=function)

    @classmethod
    def snake(cls, by: str = "row") -> ScanPath:
        """Row by row (or column by column), every second one backward (PlainMamba, Yang et al. 2024; ZigMa).

        Starts in the top left corner; reversed, it ends there; ``flipped`` starts in another.

        Raises:
            ValueError: if ``by`` is not ``"row"`` or ``"column"``.
        """
        if by not in ("row", "column"):
            raise ValueError(f"by: expected 'row' or 'column', got {by!r}")
        path = cls.from_function(Snake())
        return path if by == "row" else path.transposed()

    @classmethod
    def window(
        cls,
        size: int | tuple[int, int],
        *,
        inside: ScanPath | None = None,
        between: ScanPath | None = None,
        pads: bool = True,
    ) -> ScanPath:
        """Window after window, row by row in each (LocalMamba, Huang et al. 2024).

        Args:
            size: of a window, ``(height, width)`` or one number for both.
            inside, between: paths over the cells of a window and over the windows; rows if not given.
            pads: pad the map right and bottom to whole windows and step on the pads, as LocalMamba does; its reverse
                meets them too. Without, every token is visited once and nothing else.

        Raises:
            ValueError: if ``size`` is not positive.
        """
        row = cls("row")
        return cls.from_function(Window(_pair("size", size), inside or row, between or row, pads))

    @classmethod
    def stride(
        cls, step: int | tuple[int, int], row: int = 0, column: int = 0, *, along: ScanPath | None = None
    ) -> ScanPath:
        """Every ``step``-th token of every ``step``-th row, from ``(row, column)`` on (EfficientVMamba, Pei 2024).

        ``along`` orders the tokens that remain, row by row if not given. Maps whose sides are not multiples of the step
        are padded right and bottom, so that the paths of all offsets have the same number of steps.

        Raises:
            ValueError: if ``step`` is not positive or an offset is not below it.
        """
        steps = _pair("step", step)
        for name, value, limit in (("row", row, steps[0]), ("column", column, steps[1])):
            if not 0 <= value < limit:
                raise ValueError(f"{name}: expected an offset in 0..{limit - 1}, got {value}")
        return cls.from_function(Stride(steps, (row, column), along or cls("row")))

    @classmethod
    def hilbert(cls) -> ScanPath:
        """A Hilbert curve over any ``H x W``: every step goes to a neighbour, near tokens come at near times."""
        return cls.from_function(Hilbert())

    @classmethod
    def diagonal(cls, *, zigzag: bool = True) -> ScanPath:
        """Diagonal after diagonal from the top left, alternately down and up (as JPEG orders) or all downward."""
        return cls.from_function(Diagonal(zigzag))

    @classmethod
    def spiral(cls) -> ScanPath:
        """Clockwise from the top left corner inward; reversed, from the centre outward."""
        return cls.from_function(Spiral())

    def reversed(self) -> ScanPath:
        """The same path, walked from its end to its start."""
        return replace(self, reverse=not self.reverse)

    def transposed(self) -> ScanPath:
        """The path mirrored at the main diagonal: what it did along rows, it does along columns."""
        was = self._moved()
        return self._with(Moved(was.path, not was.transpose, was.horizontal, was.vertical))

    def flipped(self, *, vertical: bool = False, horizontal: bool = False) -> ScanPath:
        """The path mirrored upside down (``vertical``), left to right (``horizontal``), or both."""
        was = self._moved()
        flips = was.vertical != vertical, was.horizontal != horizontal
        return self._with(Moved(was.path, was.transpose, *flips))

    def _moved(self) -> Moved:
        return self.table if isinstance(self.table, Moved) else Moved(replace(self, reverse=False))

    def _with(self, moved: Moved) -> ScanPath:
        path, reverse = moved.path, self.reverse
        if path.order != "table":  # keep the closed form where there is one
            if moved.transpose:
                path = ScanPath("row" if path.order == "column" else "column")
            if moved.vertical and moved.horizontal:
                return replace(path, reverse=not reverse)
            moved = Moved(path, False, moved.vertical, moved.horizontal)
        still = not (moved.transpose or moved.vertical or moved.horizontal)
        return replace(path if still else ScanPath.from_function(moved), reverse=reverse)

    @property
    def code(self) -> int:
        """Number by which the ops know a closed form; ``TABLE`` if there is none."""
        if self.order == "table":
            return TABLE
        return (COLUMN if self.order == "column" else ROW) + int(self.reverse)

    def walk(self, height: int, width: int) -> np.ndarray:
        """`tokens` as a read-only NumPy array, built once per grid."""
        return _walk(self, height, width)

    def tokens(self, height: int, width: int) -> Tensor:
        """Token number at every step, int64 ``(T,)``, on a ``height x width`` grid.

        Raises:
            ValueError: if the grid is not of whole numbers, a table names a token outside it, or a function gives
                something else than numbers.
        """
        return torch.from_numpy(self.walk(height, width).copy())

    def inverse(self, height: int, width: int) -> Tensor:
        """The step at which each token is visited, int64 ``(H W,)``: ``tokens[inverse]`` counts from zero.

        Raises:
            ValueError: if the path is not a permutation of the grid's tokens.
        """
        tokens, count = self.walk(height, width), height * width
        if len(tokens) != count or not np.array_equal(np.sort(tokens), np.arange(count)):
            seen = tokens[tokens != PAD]
            raise ValueError(
                f"path: has no inverse on a {height} x {width} grid: {len(tokens)} steps for {count} tokens, "
                f"{len(tokens) - len(seen)} pads, {count - len(np.unique(seen))} tokens left out"
            )
        return torch.from_numpy(np.argsort(tokens))


def _whole_numbers(table: Any) -> np.ndarray:
    """Token numbers given by a user, as an int64 array."""
    values = np.asarray(table.detach().cpu() if isinstance(table, Tensor) else table)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        got = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"table: expected token numbers, whole and in one row, got {got}")
    return values.astype(np.int64)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(item, int | Integral) and item >= 1 for item in pair):
        raise ValueError(f"{name}: expected a whole number of at least 1 or a pair of them, got {value!r}")
    return int(pair[0]), int(pair[1])


@lru_cache(maxsize=1024)
def _walk(path: ScanPath, height: int, width: int) -> np.ndarray:
    for name, size in {"height": height, "width": width}.items():
        if not isinstance(size, Integral) or size < 0:
            raise ValueError(f"{name}: expected a whole number of at least 0, got {size!r}")
    count = height * width
    if path.order == "row":
        tokens = raster(height, width).ravel()
    elif path.order == "column":
        tokens = raster(height, width).T.ravel()
    elif callable(path.table):
        tokens = _whole_numbers(path.table(height, width) if count else ())
    else:
        tokens = np.array(path.table, dtype=np.int64)
    if tokens.size and not PAD <= tokens.min() <= tokens.max() < count:
        raise ValueError(f"paths: a table names tokens outside 0..{count - 1} of a {height} x {width} grid")
    tokens = np.ascontiguousarray(tokens[::-1] if path.reverse else tokens)
    tokens.flags.writeable = False
    return tokens


FORWARD = ScanPath("row")
BACKWARD = ScanPath("row", reverse=True)
BIDIRECTIONAL = (FORWARD, BACKWARD)
"""Vim's two directions along a sequence (Zhu et al. 2024, algorithm 1)."""
CROSS = (FORWARD, ScanPath("column"), BACKWARD, ScanPath("column", reverse=True))
"""VMamba's four directions over a map (Liu et al. 2024, section 4.2), in the order of its weights."""
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
def _stacked(paths: tuple[ScanPath, ...], height: int, width: int) -> np.ndarray:
    steps = [path.walk(height, width) for path in paths]
    if len({len(tokens) for tokens in steps}) > 1:
        raise ValueError(f"paths: all need the same number of steps, got {[len(tokens) for tokens in steps]}")
    return np.stack(steps).astype(np.int32 if height * width <= MOST_TOKENS else np.int64)


@lru_cache(maxsize=1024)
def _visits(paths: tuple[ScanPath, ...], height: int, width: int) -> np.ndarray:
    count, found = height * width, []
    for path in paths:
        tokens = path.walk(height, width)
        steps = np.flatnonzero(tokens != PAD)
        if not np.array_equal(np.sort(tokens[steps]), np.arange(count)):
            raise ValueError(f"paths: one does not visit every token of a {height} x {width} grid once")
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


def _table(kind: str, height: int, width: int, device: str, paths: tuple[ScanPath, ...]) -> Tensor:
    """The table of ``paths`` on ``device``, made once; ``kind`` is a key of `_BUILDERS`."""
    key = (kind, paths, height, width, device)
    if key in _TABLES:
        return _TABLES[key]
    # tables are constants of a trace; without this the first trace would record how one is made
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        # a table made in inference mode could not be saved for a backward pass later
        with torch.inference_mode(False):
            table = torch.from_numpy(_BUILDERS[kind](paths, height, width)).to(device)
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
def _attribute(kind: str, height: int, width: int, device: str, *names: str) -> str:
    """The attribute of `_COMPILED` that holds the table of the paths of these names: a constant to the compiler."""
    table = named_table(kind, names, height, width, device)
    name = f"table_{id(table)}"
    setattr(_COMPILED, name, table)
    return name


def _constant(
    kind: str, paths: Sequence[ScanPath], height: int, width: int, device: torch.device | str
) -> Tensor:
    """`_table`, also under the compiler."""
    height, width = index(height), index(width)
    if torch.compiler.is_dynamo_compiling():
        return getattr(_COMPILED, _attribute(kind, height, width, str(device), *path_names(paths)))
    return _table(kind, height, width, str(device), tuple(paths))


def path_names(paths: Sequence[ScanPath]) -> list[str]:
    """Names by which `named_table` finds paths as long as they exist, in this process."""
    return [path._name for path in paths]  # type: ignore[attr-defined]


def named_table(kind: str, names: Sequence[str], height: int, width: int, device: str) -> Tensor:
    """The table of `path_arguments` (``"tokens"``), `path_steps` (``"steps"``) or `path_moves` (``"moves"``)."""
    return _table(kind, height, width, device, tuple(_NAMED[name] for name in names))


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
    return codes, _constant("tokens", paths, height, width, device) if TABLE in codes else None


def path_steps(
    paths: Sequence[ScanPath], height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The step at which each path visits each token, int64 ``(K, H W)``, on ``device``; cached as tables are.

    Raises:
        ValueError: a path leaves a token out, or visits one twice.
    """
    return _constant("steps", paths, height, width, device)


def path_moves(
    paths: Sequence[ScanPath], height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """How continuous paths without pads reach each token, int64 ``(K, H W)``; cached as tables are.

    0 is a path's start, 1 a step to the right, 2 to the left, 3 up and 4 down.

    Raises:
        ValueError: a path leaves a token out, or visits one twice.
    """
    return _constant("moves", paths, height, width, device)


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
