"""Classifiers with a second head, which learns from another model (Touvron et al. 2021, section 4)."""

from typing import Any

import torch
from timm.layers import ClassifierHead, get_device_dtype
from torch import Tensor, nn

__all__ = ["DistilledHead", "DistilledModel"]


class DistilledHead(ClassifierHead):
    """Pooling, `features`, dropout and one or two classifiers, whose scores are averaged.

    With ``distilled_training`` a call in training mode returns the scores of both. A family overrides `features`,
    which every classifier reads, or `new_norm`, which every classifier has for itself.

    Args:
        in_features: Channels C of the map ``(B, H, W, C)``.
        num_classes: Classes; 0 for none.
        pool_type: A pooling of timm's that keeps the number of channels, or empty.
        drop_rate: Dropout before the classifiers.
        distilled: Whether to have the second one.

    Raises:
        ValueError: the pooling changes the number of channels.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str = "avg",
        drop_rate: float = 0.0,
        distilled: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(in_features, num_classes, pool_type, drop_rate, input_fmt="NHWC", **dd)
        self.distilled = distilled
        self.distilled_training = False
        self._finish(num_classes, dd)

    def _finish(self, num_classes: int, dd: dict[str, Any]) -> None:
        """What surrounds the first classifier, which exists."""
        if self.global_pool.feat_mult() != 1:
            kind = self.global_pool.pool_type
            raise ValueError(f"global_pool: expected 'avg', 'max', 'avgmax' or '', got {kind!r}")
        width, two = self.num_features, self.distilled and num_classes > 0
        self.norm = self.new_norm(width, dd) if num_classes > 0 else nn.Identity()
        self.norm_dist: nn.Module | None = self.new_norm(width, dd) if two else None
        self.fc_dist: nn.Module | None = nn.Linear(width, num_classes, **dd) if two else None

    def new_norm(self, width: int, dd: dict[str, Any]) -> nn.Module:
        """What one classifier reads its features through."""
        return nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """What the classifiers read, of the pooled map."""
        return x

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """New classifiers, as timm's head makes one.

        Raises:
            ValueError: as the constructor.
        """
        dd = get_device_dtype(self, device=device, dtype=dtype)
        super().reset(num_classes, pool_type, reset_other, in_features, **dd)
        self._finish(num_classes, dd)
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map ``(B, H, W, C)`` -> scores ``(B, classes)``, or with ``pre_logits`` what the classifiers read."""
        x = self.drop(self.features(self.global_pool(x)))
        if pre_logits:
            return x
        y = self.fc(self.norm(x))
        if self.fc_dist is not None and self.norm_dist is not None:
            z = self.fc_dist(self.norm_dist(x))
            if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript skips only a block of its own
                if self.training and self.distilled_training:
                    return y, z  # type: ignore[return-value]
            y = (y + z) / 2
        return y


class DistilledModel(nn.Module):
    """What a model with a `DistilledHead` has beside it."""

    @torch.jit.ignore
    def set_distilled_training(self, enable: bool = True) -> None:
        """Return the scores of both classifiers in training mode, not their mean; as in timm."""
        self.head.distilled_training = enable  # type: ignore[union-attr]
