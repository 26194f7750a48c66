"""LocalVim as the backbone of a segmenter or detector, as the authors' OpenMMLab code uses it."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..tokens import patch_tokens
from ..weights.contents import Tensors
from ..weights.loading import load_into
from .model import LocalVim
from .names import LOCAL_VIM, checkpoint_filter_fn


class LocalVimDense(LocalVim):
    """Maps of chosen blocks: each the block's output without the residual stream, after a norm of its own.

    For new work `timm.create_model(name, features_only=True)` is the shorter way; this class exists so that models
    trained with the authors' dense code keep their meaning.

    Args:
        out_indices: Blocks whose maps are returned.
        **kwargs: As `LocalVim` takes them.

    Raises:
        ValueError: an option has no such value, or there is no such block.
    """

    def __init__(self, out_indices: Sequence[int] = (4, 9, 14, 19), **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", **kwargs)
        self.out_indices = tuple(out_indices)
        if not all(0 <= i < len(self.blocks) for i in self.out_indices):
            raise ValueError(
                f"out_indices: expected blocks 0..{len(self.blocks) - 1}, got {self.out_indices}"
            )
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.outnorms = nn.ModuleList(nn.LayerNorm(self.embed_dim, **dd) for _ in self.out_indices)
        self.norm = nn.Identity()  # type: ignore[assignment]

    def load_classifier(self, path: str | os.PathLike[str], use_ema: bool | None = None) -> None:
        """Start from a classifier's checkpoint file, without its head and last norm; the added norms stay as they are.

        Args:
            path, use_ema: As `vimzoo.models.weights.loading.read_checkpoint` takes them, with its errors.

        Raises:
            CheckpointError: a tensor of the backbone is missing or has another shape; nothing was loaded.
        """

        def headless(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            native = LOCAL_VIM.to_native(state, model) if LOCAL_VIM.is_official(state) else dict(state)
            own = {name: t for name, t in self.state_dict().items() if name.startswith("outnorms.")}
            kept = Tensors(state)  # keeps the recorded grid
            kept.clear()
            head = ("head.", "norm.", "norm_f.")
            kept.update({name: tensor for name, tensor in native.items() if not name.startswith(head)})
            return {**own, **checkpoint_filter_fn(kept, model)}

        load_into(self, path, headless, use_ema=use_ema)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps ``(B, D, h, w)``."""
        x, grid = self._embed(x)
        _, _, taps = self._forward_blocks(x, grid, list(self.out_indices), max(self.out_indices) + 1)
        maps = []
        for norm, (out, _) in zip(self.outnorms, taps, strict=True):
            tokens = norm(patch_tokens(out, self.cls_position))
            maps.append(tokens.transpose(1, 2).unflatten(2, grid).contiguous())
        return maps
