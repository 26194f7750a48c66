"""A decoder like U-Net's on the feature maps of any backbone that timm knows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..segmentation_base import SegmentationModel
from ..weights.class_names import file_options
from ..weights.hub import MissingWeightsError
from ..weights.loading import CheckpointError

__all__ = ["UNet"]


class ConvBlock(nn.Sequential):
    """Two 3 x 3 convolutions, each with a group norm and an activation. Maps (B, C, H, W)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        layers: list[nn.Module] = []
        for width in (dim, out_dim):
            norm = nn.GroupNorm(math.gcd(out_dim, 8), out_dim)
            layers += [nn.Conv2d(width, out_dim, 3, padding=1, bias=False), norm, nn.GELU()]
        super().__init__(*layers)


class UNet(SegmentationModel):
    """Feature maps of a backbone, from the coarsest to the finest, each joined with the ones before it.

    Scores have the resolution of the finest map, a quarter of the image's for most backbones, and are enlarged to the
    image's.

    Args:
        backbone: A registered name that supports ``features_only=True``; of backbones with maps of one size, such as
            Vim, four are taken.
        num_classes: Classes.
        in_chans: Channels of the images.
        width: Channels of the finest map of the decoder; they double with each coarser one.
        img_size: Height and width of the images, for backbones made for one size.
        window, overlap: As `SegmentationModel.set_window` takes them.
        drop_rate: Dropout before the last layer.
        drop_path_rate: Of the backbone.
        backbone_args: Further arguments of the backbone.

    Raises:
        ValueError: a number is not positive, or the backbone is unknown or gives no maps.
    """

    def __init__(
        self,
        backbone: str = "vmamba_tiny_s1l8",
        num_classes: int = 2,
        in_chans: int = 3,
        width: int = 64,
        img_size: int | Sequence[int] | None = None,
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if min(num_classes, width) < 1:
            raise ValueError(f"num_classes={num_classes}, width={width}: expected positive numbers")
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, width
        self.set_window(window, overlap)
        self.source: dict[str, Any] = {"model_name": backbone, "in_chans": in_chans, **(backbone_args or {})}
        if drop_path_rate:
            self.source["drop_path_rate"] = drop_path_rate
        if not timm.is_model(backbone):
            raise ValueError(
                f"backbone={backbone!r}: expected a registered name; timm.list_models() has them"
            )
        cfg = timm.get_pretrained_cfg(backbone)
        if cfg is not None and cfg.fixed_input_size:
            self.source |= {"img_size": tuple(img_size) if isinstance(img_size, Sequence) else img_size}
            self.source["dynamic_img_size"] = True
        self.backbone = self._backbone()
        channels = self.backbone.feature_info.channels()
        widths = [width * 2**level for level in range(len(channels))]
        self.lateral = nn.Conv2d(channels[-1], widths[-1], 1)
        self.decoder = nn.ModuleList(
            ConvBlock(widths[level + 1] + channels[level], widths[level])
            for level in reversed(range(len(channels) - 1))
        )
        self.head_drop = nn.Dropout2d(drop_rate)
        self.head = nn.Conv2d(width, num_classes, 1)
        for module in (self.lateral, self.decoder, self.head):
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    trunc_normal_(part.weight, std=math.sqrt(2 / part.weight[0].numel()))
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)

    def _backbone(self, **options: Any) -> Any:
        """A new backbone that returns its feature maps, with timm's wrapper around it."""
        source = {**self.source, **options}
        if source.get("img_size", 0) is None:
            del source["img_size"]
        return timm.create_model(features_only=True, **source)

    def scores(self, x: Tensor) -> Tensor:
        """See `SegmentationModel`."""
        maps = self.backbone(x)
        y = self.lateral(maps[-1])
        for block, skip in zip(self.decoder, reversed(maps[:-1]), strict=True):
            if y.shape[2:] != skip.shape[2:]:
                y = F.interpolate(y, size=skip.shape[2:], mode="bilinear", align_corners=False)
            y = block(torch.cat([y, skip], 1))
        y = self.head(self.head_drop(y))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)

    @torch.jit.ignore
    def load_encoder(self, path: str | os.PathLike[str] | None = None) -> str:
        """See `SegmentationModel`."""
        name = self.source["model_name"]
        options = {} if path is None else file_options(Path(path))
        options.pop("num_classes", None)  # timm's wrapper removes the classifier
        try:
            source = self._backbone(**{**options, "pretrained": True})
        except MissingWeightsError:
            raise
        except (RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(f"{path or name}: {error}") from error
        self.backbone.load_state_dict(source.state_dict())
        return f"the backbone, {name}, from {path or 'published weights'}"

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of the backbone's parameters without weight decay."""
        inner = getattr(self.backbone, "model", self.backbone)
        names = inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else set()
        return {f"*{name.removeprefix('*')}" for name in names}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth: the backbone, the decoder's blocks, the head."""
        return dict(
            stem=r"^backbone", blocks=[(r"^lateral", (0,)), (r"^decoder\.(\d+)", None), (r"^head", (99999,))]
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass instead of keeping their activations."""
        getattr(self.backbone, "model", self.backbone).set_grad_checkpointing(enable)
