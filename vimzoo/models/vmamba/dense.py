"""VMamba as the backbone of a segmenter or detector, as the authors' OpenMMLab code uses it."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vimzoo.layers.maps import map_norm

from ..weights.loading import load_into
from .model import VMamba
from .names import checkpoint_filter_fn


class VMambaDense(VMamba):
    """Maps of chosen stages, before they are downsampled, each with a norm of its own.

    For new work `timm.create_model(name, features_only=True)` is the shorter way, without these norms; this class
    exists so that the authors' detectors and segmenters keep their meaning. A file of one of those loads with
    ``load_pretrained(path, prefix="backbone.")``.

    Args:
        out_indices: Stages whose maps are returned.
        norm: As `VMamba` takes it; also of the added norms.
        **kwargs: As `VMamba` takes them.

    Raises:
        ValueError: an option has no such value, or there is no such stage.
    """

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3), norm: str = "layer", **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", norm=norm, **kwargs)
        self.out_indices = tuple(out_indices)
        widths = [info["num_chs"] for info in self.feature_info]
        if not all(0 <= i < len(widths) for i in self.out_indices):
            raise ValueError(f"out_indices: expected stages 0..{len(widths) - 1}, got {self.out_indices}")
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.outnorms = nn.ModuleDict({str(i): map_norm(norm, widths[i], **dd) for i in self.out_indices})
        self.norm = nn.Identity()

    def load_classifier(self, path: str | os.PathLike[str], use_ema: bool | None = None) -> None:
        """Start from a classifier's checkpoint file, without its head and last norm; the added norms stay as they are.

        Args:
            path, use_ema: As `vimzoo.models.weights.loading.read_checkpoint` takes them, with its errors.

        Raises:
            CheckpointError: a tensor of the backbone is missing or has another shape; nothing was loaded.
        """

        def headless(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            state = self.dialect.spell(state) if self.dialect.is_official(state) else state
            head = ("classifier.", "norm.", "head.")
            kept = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
            own = {name: t for name, t in self.state_dict().items() if name.startswith("outnorms.")}
            return {**own, **checkpoint_filter_fn(kept, model)}

        load_into(self, path, headless, use_ema=use_ema)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps ``(B, D, h, w)``."""
        x = self._embed(x)
        maps: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if str(i) in self.outnorms:
                maps.append(self.outnorms[str(i)](x).permute(0, 3, 1, 2).contiguous())
        return maps
