"""Where class activation maps of a VMamba are read."""

from typing import Any

from torch import Tensor

from ..class_maps import CamArguments


def cam_arguments(model: Any, image_size: tuple[int, int] | None) -> CamArguments:
    """The last map after its norm: only the mean and the classifier follow, so Grad-CAM is the class activation map.

    Args:
        model: A VMamba.
        image_size: Not needed, as its maps have two axes.
    """

    def to_map(x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    return CamArguments([model.norm], to_map)
