"""VMamba's mixer and block with a third axis: volumes read along several paths by one state-space scan.

No paper's model as such: `SS2D` and `VSSBlock` with a 3-D convolution and with the axis orders of a volume as paths.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vimzoo.ops.paths.path import BIDIRECTIONAL, CROSS_3D, SLICES, ScanPath, grid_table

from .scripted import scripted_grid_table
from .ss2d import SS2D
from .vss_block import VSSBlock

VOLUME_SCANS: dict[str, tuple[ScanPath, ...]] = {
    "cross": CROSS_3D,
    "slices": SLICES,
    "bidirectional": BIDIRECTIONAL,
}


@torch.jit.script_if_tracing
def _check_traced_sizes(x: Tensor, sizes: list[int]) -> Tensor:
    """Return ``x`` if it has the sizes that its table was made for: a traced graph holds the table as a constant.

    Raises:
        ValueError: it has others.
    """
    for axis, size in enumerate(sizes):
        if x.shape[axis + 1] != size:
            raise ValueError(f"x: this model was traced with a volume of {sizes}, got {x.shape[1:4]}")
    return x


class SS3D(SS2D):
    """`SS2D` for volumes ``(B, D, H, W, C)``, with a convolution of three axes.

    Args:
        dim: Channels C.
        paths: ``"cross"``: along each of the three axes, and the three backward. ``"slices"``: SegMamba's forward,
            backward and through the slices, three closed forms. ``"bidirectional"``: forward and backward. Or paths
            for grids of three axes, such as `vimzoo.ops.ScanPath.axes` gives.
        options: The other arguments of `SS2D`.

    Raises:
        ValueError: an option has an unknown value, a size is not positive, or a path is for grids of another rank.
    """

    scans: ClassVar[Mapping[str, tuple[ScanPath, ...]]] = VOLUME_SCANS
    conv_class = nn.Conv3d
    grid_axes = 3

    def scan(self, x: Tensor) -> Tensor:
        """The scan alone, along all paths, on a volume ``(B, D, H, W, C)`` of the inner width."""
        depth, height, width = x.shape[1], x.shape[2], x.shape[3]
        table: Tensor | None = None
        if self.has_table:
            if torch.jit.is_scripting():
                table = scripted_grid_table("tokens", self.path_names, [depth, height, width], x.device)
            else:
                table = self._volume_table(depth, height, width, x.device)
                if torch.jit.is_tracing():
                    x = _check_traced_sizes(x, [int(depth), int(height), int(width)])
        if self.rows == 2:
            y = self.ssm(x.flatten(1, 3), None, self.codes, table, depth * height, width)
        else:
            y = self.ssm(x.flatten(1, 3), None, self.codes, table, depth, height * width)
        return y.reshape(x.shape)

    @torch.jit.ignore
    def _volume_table(self, depth: int, height: int, width: int, device: torch.device) -> Tensor:
        return grid_table(self.paths, (depth, height, width), device)


class VSSBlock3d(VSSBlock):
    """`VSSBlock` for volumes ``(B, C, D, H, W)``, to drop into any 3-D convolutional network.

    Args:
        dim: Channels C.
        channels_last: Take ``(B, D, H, W, C)`` instead.
        paths: As `SS3D` takes them.
        **options: As `VSSBlock` takes them.

    Raises:
        ValueError: as `VSSBlock` and `SS3D`.
    """

    scan_class = SS3D

    def __init__(
        self, dim: int, *, channels_last: bool = False, paths: Any = "cross", **options: Any
    ) -> None:
        super().__init__(dim, channels_last=channels_last, paths=paths, **options)
