"""PlainMamba as a backbone with maps of chosen blocks, as the authors' OpenMMLab code uses it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vimzoo.layers.plain import apply_norm

from .model import PlainMamba


class PlainMambaDense(PlainMamba):
    """All tokens of the last block, and the maps of chosen blocks, each with a norm of its own.

    For new work `timm.create_model(name, features_only=True)` is the shorter way; this class exists so that models
    trained with the authors' code keep their meaning.

    Args:
        out_indices: Blocks whose maps are returned; negative from the end.
        final_norm: Normalise the last block's output.
        **kwargs: As `PlainMamba` takes them.

    Raises:
        ValueError: an option has no such value, or there is no such block.
    """

    def __init__(self, out_indices: Sequence[int] = (-1,), final_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", **kwargs)
        depth = len(self.blocks)
        if not all(-depth <= i < depth for i in out_indices):
            raise ValueError(f"out_indices: expected blocks 0..{depth - 1}, got {tuple(out_indices)}")
        self.out_indices = tuple(i % depth for i in out_indices)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        inner = [i for i in self.out_indices if i != depth - 1]
        self.outnorms = nn.ModuleDict({str(i): nn.LayerNorm(self.embed_dim, 1e-6, **dd) for i in inner})
        if not final_norm:
            self.norm = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> tokens ``(B, h w, D)`` and maps ``(B, D, h, w)``."""
        x = self._embed(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x = self._run(block, x)
            x = apply_norm(self.norm, x) if i == len(self.blocks) - 1 else x
            if i in self.out_indices:
                y = self.outnorms[str(i)](x) if str(i) in self.outnorms else x
                maps.append(y.permute(0, 3, 1, 2))
        return x.flatten(1, 2), tuple(maps)
