"""VMamba as the backbone of a segmenter or detector, as the authors' OpenMMLab code uses it."""

from collections.abc import Sequence
from typing import Any

from vimzoo.layers.maps import map_norm

from ..stage_maps import StageMaps
from .model import VMamba


class VMambaDense(StageMaps, VMamba):
    """A VMamba that returns maps of chosen stages, as `StageMaps` does.

    Args:
        out_indices: Stages whose maps are returned.
        norm: As `VMamba` takes it; also of the added norms.
        **kwargs: As `VMamba` takes them.

    Raises:
        ValueError: an option has no such value, or there is no such stage.
    """

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3), norm: str = "layer", **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", norm=norm, **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.keep_maps(out_indices, lambda width: map_norm(norm, width, **dd))
