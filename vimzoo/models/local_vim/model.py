"""LocalVim: Vim whose blocks read rows, columns and windows of the map; the package registers its variants."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import checkpoint
from torch import Tensor

from vimzoo.layers import GridRope, LocalMambaBlock
from vimzoo.layers.checks import check_choice
from vimzoo.layers.local import block_directions

from ..export_options import ExportOptions
from ..tokens import resize_pos_embed
from ..vim.model import Vim
from .names import LOCAL_VIM

VIMS_ALONE = frozenset({"bimamba", "divide_out", "layer_scale", "mixers", "init"})
"""Options of `Vim` that say how its two directions are scanned and initialised."""


class LocalVim(Vim):
    """LocalVim with timm's model contract; any image size, padded to whole patches.

    Args:
        directions: The directions of the blocks, names as `vimzoo.layers.local.local_path` takes them: one set for
            all blocks or one per block. ``"search"``: a network all of whose blocks weight eight directions;
            `vimzoo.layers.searched_directions` reads the result.
        depth: Number of blocks.
        cls_token: ``"none"`` or ``"middle"``.
        rope, rope_residual: Rotary embedding of the tokens before every block, and of the residual stream
            (``if_rope``, ``if_rope_residual``).
        rope_size: Grid that rotary positions are stretched to (``pt_hw_seq_len``).
        dynamic_img_size, dynamic_img_pad: As in `Vim`. The tables of the rotary embedding are resized with the position
            embedding.
        **options: As `Vim` takes them, except those of its two directions.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has no such value, or a size is not positive.
    """

    export_options = ExportOptions(one_size=True)
    dialect = LOCAL_VIM
    block_class = LocalMambaBlock

    def __init__(
        self,
        directions: str | Sequence[str] | Sequence[Sequence[str]] = "search",
        *,
        depth: int = 20,
        cls_token: str = "none",
        rope: bool = True,
        rope_residual: bool = True,
        rope_size: int = 14,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = True,
        **options: Any,
    ) -> None:
        if foreign := sorted(VIMS_ALONE & options.keys()):
            raise TypeError(
                f"{type(self).__name__}() has no option {', '.join(foreign)}; expected Vim's others"
            )
        check_choice(("none", "middle"), cls_token=cls_token)
        sets = block_directions(directions, depth)
        mixers = [{"directions": names, "middle": cls_token == "middle"} for names in sets]
        super().__init__(
            depth=depth, cls_token=cls_token, dynamic_img_size=dynamic_img_size, dynamic_img_pad=dynamic_img_pad,
            mixers=mixers, init="equal_steps", **options,
        )  # fmt: skip
        self.rope = GridRope(self.embed_dim, rope_size) if rope else None
        self.rope_residual = rope_residual
        self.rope_first = self.num_prefix_tokens

    def _tables(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary tables of the model's grid, resized to ``grid``."""
        assert self.rope is not None
        own = self.patch_embed.grid_size
        cos, sin = self.rope.tables(own[0], own[1], device)
        cos = resize_pos_embed(cos.unsqueeze(0), own, grid, "none")[0]
        return cos, resize_pos_embed(sin.unsqueeze(0), own, grid, "none")[0]

    def _forward_blocks(
        self, x: Tensor, grid: tuple[int, int], take: list[int], count: int
    ) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
        """As `Vim`'s."""
        tables = None if self.rope is None else self._tables(grid, x.device)
        residual: Tensor | None = None
        taps: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            if i < count:
                if self.rope is not None and tables is not None:
                    x = self.rope(x, tables[0], tables[1], self.rope_first)
                    if residual is not None and self.rope_residual:
                        residual = self.rope(residual, tables[0], tables[1], self.rope_first)
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x, residual = checkpoint(block, x, residual, grid)
                else:
                    x, residual = block(x, residual, grid)
                if i in take and residual is not None:
                    taps.append((x, residual))
        return x, residual, taps
