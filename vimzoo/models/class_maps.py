"""The record by which a family says where class activation maps (Zhou et al. 2016, Selvaraju et al. 2017) are read."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class CamArguments(NamedTuple):
    """Arguments of pytorch-grad-cam's methods after the model, under its names.

    Attributes:
        target_layers: Layers whose output holds the map, a tensor.
        reshape_transform: Function from that output, or its gradient, to ``(B, C, H, W)``.
    """

    target_layers: list[nn.Module]
    reshape_transform: Callable[[Tensor], Tensor]
