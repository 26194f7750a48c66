"""Vim with the options that its authors tried but published no weights with: rotary positions, flips, paired blocks."""

from typing import Any, Final

import torch
from timm.models import checkpoint
from torch import Tensor

from vimzoo.layers import GridRope

from .model import Vim

OPTIONS = frozenset({"paired", "rope", "rope_residual", "rope_size", "flip_rate"})
"""Options that only `VimAblation` has."""


class VimAblation(Vim):
    """`Vim` with the options of the authors' ablations.

    Args:
        paired: Run blocks in pairs, the second on the flipped sequence, and add up (``if_bidirectional``;
            meant for ``bimamba="none"``). As in the authors' code the stream doubles with every pair, and
            the last block of an odd number never runs.
        rope, rope_residual: Rotary embedding of the tokens before every block, and of the stream
            (``if_rope``, ``if_rope_residual``). With one class token the first token of the sequence is left
            out, wherever the class token is: with a middle one the patches before it are shifted by one.
            Trained weights depend on that.
        rope_size: Grid that rotary positions are stretched to (``pt_hw_seq_len``).
        flip_rate: Probability of reading a batch backwards, also in evaluation (``flip_img_sequences_ratio``).
        **options: As `Vim` takes them.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    paired: Final[bool]

    def __init__(
        self,
        *args: Any,
        paired: bool = False,
        rope: bool = False,
        rope_residual: bool = False,
        rope_size: int = 14,
        flip_rate: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if rope and self.embed_dim % 4:
            raise ValueError(f"embed_dim: expected a multiple of 4 with rope, got {self.embed_dim}")
        self.paired = paired
        self.rope = GridRope(self.embed_dim, rope_size) if rope else None
        self.rope_residual = rope_residual
        self.rope_first = 1 if self.num_prefix_tokens else 0
        self.flip_rate = flip_rate

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor, flipped: bool) -> Tensor:
        if self.rope is not None:
            x = self.rope(x.flip(1) if flipped else x, cos, sin, self.rope_first)
            x = x.flip(1) if flipped else x
        return x

    def _forward_blocks(
        self, x: Tensor, grid: tuple[int, int], take: list[int], count: int
    ) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
        """As `Vim`'s; features in ``take`` are in the order of the sequence even if it is read backwards."""
        cos, sin = x, x  # placeholders: TorchScript needs tensors
        if self.rope is not None:
            cos, sin = self.rope.tables(grid[0], grid[1], x.device)
        flipped = self.flip_rate > 0.0 and bool(torch.rand([1]) < self.flip_rate)
        if flipped:
            x = x.flip(1)
        if self.paired:
            return self._forward_pairs(x, cos, sin, flipped, take, count)
        residual: Tensor | None = None
        taps: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            if i < count:
                x = self._rotate(x, cos, sin, flipped)
                if residual is not None and self.rope_residual:
                    residual = self._rotate(residual, cos, sin, flipped)
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x, residual = checkpoint(block, x, residual)
                else:
                    x, residual = block(x, residual)
                if i in take and residual is not None:
                    taps.append((x.flip(1), residual.flip(1)) if flipped else (x, residual))
        return x, residual, taps

    def _forward_pairs(
        self, x: Tensor, cos: Tensor, sin: Tensor, flipped: bool, take: list[int], count: int
    ) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
        """Blocks two by two, the second on the flipped sequence; both of a pair are tapped at its end."""
        residual: Tensor | None = None
        taps: list[tuple[Tensor, Tensor]] = []
        out, stream = x, x
        usable = len(self.blocks) // 2 * 2
        for i, block in enumerate(self.blocks):
            backward = i % 2 == 1
            if i < min(usable, count + count % 2):
                given, before = x, residual
                if backward:
                    given = x.flip(1)
                    before = None if residual is None else residual.flip(1)
                else:
                    x = given = self._rotate(x, cos, sin, False)
                    if residual is not None and self.rope_residual:
                        residual = before = self._rotate(residual, cos, sin, False)
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    given, after = checkpoint(block, given, before)
                else:
                    given, after = block(given, before)
                if backward:
                    x, residual = out + given.flip(1), stream + after.flip(1)
                    tap = (x.flip(1), residual.flip(1)) if flipped else (x, residual)
                    taps.extend([tap for k in take if k == i or k == i - 1])
                else:
                    out, stream = given, after
        if usable < len(self.blocks) and usable in take and residual is not None:
            taps.append((x.flip(1), residual.flip(1)) if flipped else (x, residual))
        return x, residual, taps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As `Vim`'s; the last pair stays whole."""
        blocks = self.blocks
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.paired:
            count = len(self.blocks)
            self.blocks = blocks[: count + count % 2]
        return take
