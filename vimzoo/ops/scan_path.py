"""The order in which one direction of a state-space layer visits the tokens of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

ROW, ROW_REVERSED, COLUMN, COLUMN_REVERSED, TABLE = range(5)


@dataclass(frozen=True)
class ScanPath:
    """One scan order over an ``H x W`` grid whose tokens are numbered row by row.

    Rows, columns and their reverses have closed forms and work on every grid; ``table`` gives any other order as
    token numbers, in which ``-1`` is a pad (its input and projections are zero, its output is dropped) and tokens
    that are left out get zero. A sequence is a ``1 x L`` grid: ``ROW`` reads it forward, ``ROW.reversed()`` backward.

    Raises:
        ValueError: if ``order`` is unknown, or ``table`` is given with another order than ``"table"`` or missing.
    """

    order: str = "row"
    reverse: bool = False
    table: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.order not in ("row", "column", "table"):
            raise ValueError(f"order: expected 'row', 'column' or 'table', got {self.order!r}")
        if (self.table is not None) != (self.order == "table"):
            raise ValueError(f"table: needed exactly when order is 'table', got order {self.order!r}")

    @classmethod
    def from_table(cls, table: Sequence[int]) -> ScanPath:
        """A path that visits the tokens ``table``, in that order; ``-1`` is a pad."""
        return cls("table", table=tuple(int(token) for token in table))

    def reversed(self) -> ScanPath:
        """The same path, walked from its end to its start."""
        return replace(self, reverse=not self.reverse)

    @property
    def code(self) -> int:
        """Number by which the ops know a closed form; ``TABLE`` if there is none."""
        if self.order == "table":
            return TABLE
        return (COLUMN if self.order == "column" else ROW) + int(self.reverse)

    def tokens(self, height: int, width: int) -> Tensor:
        """Token number at every step, int64 ``(T,)``, on a ``height x width`` grid.

        Raises:
            ValueError: if a table names a token outside the grid.
        """
        count = height * width
        if self.table is not None:
            tokens = torch.tensor(self.table, dtype=torch.int64)
            if len(self.table) and not -1 <= min(self.table) <= max(self.table) < count:
                raise ValueError(
                    f"paths: a table names tokens outside 0..{count - 1} of a {height} x {width} grid"
                )
        else:
            tokens = torch.arange(count).view(height, width)
            tokens = (tokens.T if self.order == "column" else tokens).flatten()
        return tokens.flip(0) if self.reverse else tokens


FORWARD = ScanPath("row")
BACKWARD = ScanPath("row", reverse=True)
BIDIRECTIONAL = (FORWARD, BACKWARD)
"""Vim's two directions along a sequence (Zhu et al. 2024, algorithm 1)."""
CROSS = (FORWARD, ScanPath("column"), BACKWARD, ScanPath("column", reverse=True))
"""VMamba's four directions over a map (Liu et al. 2024, section 4.2), in the order of its weights."""


def path_codes(paths: Sequence[ScanPath]) -> list[int]:
    """The closed-form codes of ``paths``, as the ops' schema takes them."""
    return [path.code for path in paths]


@lru_cache(maxsize=256)
def path_table(paths: tuple[ScanPath, ...], height: int, width: int) -> Tensor | None:
    """Token numbers of all ``paths`` on a grid, int32 ``(K, T)`` on CPU; ``None`` if every path has a closed form.

    Raises:
        ValueError: if the paths visit different numbers of steps, or tokens outside the grid.
    """
    if all(path.order != "table" for path in paths):
        return None
    steps = [path.tokens(height, width) for path in paths]
    if len({len(tokens) for tokens in steps}) > 1:
        raise ValueError(f"paths: all need the same number of steps, got {[len(tokens) for tokens in steps]}")
    return torch.stack(steps).to(torch.int32)


def tokens_from_codes(codes: Sequence[int], table: Tensor | None, height: int, width: int) -> Tensor:
    """Token numbers int64 ``(K, T)`` from what the op's schema carries: closed-form codes, or a table."""
    if table is not None:
        return table.long()
    closed = [ScanPath("column" if code >= COLUMN else "row", bool(code & 1)) for code in codes]
    return torch.stack([path.tokens(height, width) for path in closed])
