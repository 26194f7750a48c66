"""Models of stages as the backbone of a segmenter or detector, as their authors' OpenMMLab code uses them."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .staged import StagedModel
from .weights.loading import load_into

__all__ = ["StageMaps"]


class StageMaps(StagedModel):
    """Maps of chosen stages, before they are downsampled, each with a norm of its own.

    For new work `timm.create_model(name, features_only=True)` is the shorter way, without these norms; this class
    exists so that the authors' detectors and segmenters keep their meaning. A file of one of those loads with
    ``load_pretrained(path, prefix="backbone.")``.
    """

    def keep_maps(self, out_indices: Sequence[int], norm: Callable[[int], nn.Module]) -> None:
        """Add the norms of the maps; the last norm of the classifier goes.

        Args:
            out_indices: Stages whose maps are returned.
            norm: Function from channels to a norm of maps ``(B, H, W, C)``.

        Raises:
            ValueError: there is no such stage.
        """
        self.out_indices = tuple(out_indices)
        widths = [info["num_chs"] for info in self._infos()]
        if not all(0 <= i < len(widths) for i in self.out_indices):
            raise ValueError(f"out_indices: expected stages 0..{len(widths) - 1}, got {self.out_indices}")
        self.outnorms = nn.ModuleDict({str(i): norm(widths[i]) for i in self.out_indices})
        self.norm = nn.Identity()

    def load_classifier(self, path: str | os.PathLike[str], use_ema: bool | None = None) -> None:
        """Start from a classifier's checkpoint file, without its head and last norm; the added norms stay as they are.

        Args:
            path, use_ema: As `vimzoo.models.weights.loading.read_checkpoint` takes them, with its errors.

        Raises:
            CheckpointError: a tensor of the backbone is missing or has another shape; nothing was loaded.
        """

        def headless(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            dialect: Any = self.dialect
            state = dialect.spell(state) if dialect.is_official(state) else state
            head = ("classifier.", "norm.", "head.")
            kept = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
            own = {name: t for name, t in self.state_dict().items() if name.startswith("outnorms.")}
            return {**own, **self.checkpoint_filter()(kept, model)}

        load_into(self, path, headless, use_ema=use_ema)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps ``(B, D, h, w)``."""
        x = self._embed(x)
        maps: list[Tensor] = []
        for i, stage in enumerate(self.stages):  # type: ignore[arg-type]
            x = stage(x)
            if str(i) in self.outnorms:
                maps.append(self.outnorms[str(i)](x).permute(0, 3, 1, 2).contiguous())
        return maps
