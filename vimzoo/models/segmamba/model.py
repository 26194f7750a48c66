"""SegMamba: a U-shaped network of volumes with a Mamba encoder (Xing et al. 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vimzoo.layers.checks import check_sizes
from vimzoo.layers.grid_mamba import GridMamba
from vimzoo.layers.residual_convs import ResidualConvs

from ..segmentation_base import SegmentationModel

__all__ = ["ChannelMlp", "GatedConv", "SegMamba", "SegMambaEncoder"]


class GatedConv(nn.Module):
    """Convolutions before the mixers (section 2.3): two 3 x 3 x 3 ones plus a pointwise one, mixed and added.

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv3d(dim, dim, 3, padding=1)
        self.pointwise = nn.Conv3d(dim, dim, 1)
        self.mixed = nn.Conv3d(dim, dim, 1)
        self.norm = nn.InstanceNorm3d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> the same shape."""
        local = torch.relu(self.norm(self.conv1(x)))
        local = torch.relu(self.norm(self.conv2(local)))
        local = local + torch.relu(self.norm(self.pointwise(x)))
        return x + torch.relu(self.norm(self.mixed(local)))


class ChannelMlp(nn.Module):
    """Two pointwise convolutions and a GELU between them.

    Args:
        dim, hidden: Channels, and channels in between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(dim, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv3d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> the same shape."""
        return self.fc2(self.act(self.fc1(x)))


class SegMambaStage(nn.Module):
    """Blocks of one resolution after the step to it.

    Args:
        down: The step.
        dim: Channels.
        depth: Number of mixers.
        slices: Parts of the volume that the mixers read across.
        d_state: States per channel.
    """

    def __init__(self, down: nn.Module, dim: int, depth: int, slices: int, d_state: int = 16) -> None:
        super().__init__()
        self.down = down
        self.gate = GatedConv(dim)
        mixers = [GridMamba(dim, "v3", slices, mixer_args={"d_state": d_state}) for _ in range(depth)]
        self.blocks = nn.Sequential(*mixers)
        self.norm = nn.InstanceNorm3d(dim)
        self.mlp = ChannelMlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> the input of the next stage, ``(B, C', D', H', W')``."""
        return self.blocks(self.gate(self.down(x)))

    def output(self, x: Tensor) -> Tensor:
        """What the decoder gets of the stage's output ``x``, of the same shape."""
        return self.mlp(self.norm(x))


class SegMambaEncoder(nn.Module):
    """The encoder: four resolutions from 1/2 to 1/16.

    Args:
        in_chans: Channels of the volumes.
        depths, dims: Mixers and channels of each stage.
        slices: Parts that the mixers of each stage read across. Their product with the lengths of the parts is the
            number of positions; the defaults are the depths of the stages on 128 slices.
        d_state: States per channel.

    Raises:
        ValueError: a number is not positive, or the lists differ in length.
    """

    def __init__(
        self,
        in_chans: int = 1,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        slices: Sequence[int] = (64, 32, 16, 8),
        d_state: int = 16,
    ) -> None:
        super().__init__()
        if not len(depths) == len(dims) == len(slices) >= 1:
            raise ValueError(
                f"depths={tuple(depths)}, dims={tuple(dims)}, slices={tuple(slices)}: expected one number per stage"
            )
        for depth, dim, parts in zip(depths, dims, slices, strict=True):
            check_sizes(depths=depth, dims=dim, slices=parts)
        self.stages = nn.ModuleList()
        for i, (depth, dim, parts) in enumerate(zip(depths, dims, slices, strict=True)):
            if i == 0:
                down: nn.Module = nn.Conv3d(in_chans, dim, 7, 2, 3)
            else:
                down = nn.Sequential(nn.InstanceNorm3d(dims[i - 1]), nn.Conv3d(dims[i - 1], dim, 2, 2))
            self.stages.append(SegMambaStage(down, dim, depth, parts, d_state))

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(B, C, D, H, W)`` -> a volume of each stage, the largest first."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(stage.output(x))  # type: ignore[operator]
        return found


class UpBlock(nn.Module):
    """Twice the resolution, joined with the encoder's volume.

    Args:
        dim, out_dim: Channels before and after; the encoder's volume has ``out_dim``.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(dim, out_dim, 2, 2, bias=False)
        self.convs = ResidualConvs(2 * out_dim, out_dim, 3, bias=False, affine=False, shortcut="norm")

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` and ``(B, C', 2 D, 2 H, 2 W)`` -> the latter's shape."""
        return self.convs(torch.cat([self.up(x), skip], 1))


class SegMamba(SegmentationModel):
    """SegMamba for volumes ``(B, C, D, H, W)``.

    Args:
        in_chans: Channels of the volumes, such as four MRI sequences.
        num_classes: Classes.
        depths, dims, slices, d_state: As in `SegMambaEncoder`, for four stages.
        hidden: Channels of the coarsest volume of the decoder.

    Sizes are padded to multiples of 32, for which the default slices divide the positions of every stage.

    Raises:
        ValueError: as `SegMambaEncoder`.
    """

    def __init__(
        self,
        in_chans: int = 4,
        num_classes: int = 4,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        hidden: int = 768,
        slices: Sequence[int] = (64, 32, 16, 8),
        d_state: int = 16,
    ) -> None:
        super().__init__()
        check_sizes(in_chans=in_chans, num_classes=num_classes, hidden=hidden)
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, dims[0]
        self.encoder = SegMambaEncoder(in_chans, depths, dims, slices, d_state)
        self.multiple_of = 2 ** (len(dims) + 1)
        self.skips = nn.ModuleList(
            _convs(dim, out) for dim, out in zip([in_chans, *dims], [*dims, hidden], strict=True)
        )
        outs = [hidden, *reversed(dims)]
        self.ups = nn.ModuleList(UpBlock(outs[i], outs[i + 1]) for i in range(len(dims)))
        self.last = _convs(dims[0], dims[0])
        self.head = nn.Conv3d(dims[0], num_classes, 1)

    def scores(self, x: Tensor) -> Tensor:
        """Volumes (B, C, D, H, W) with sizes that are multiples of ``multiple_of`` -> class scores."""
        volumes = [x, *self.encoder(x)]
        skips = [convs(volume) for convs, volume in zip(self.skips, volumes, strict=True)]
        x = skips[-1]
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return self.head(self.last(x))

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head


def _convs(dim: int, out_dim: int) -> ResidualConvs:
    shortcut = "none" if dim == out_dim else "norm"
    return ResidualConvs(dim, out_dim, 3, bias=False, affine=False, shortcut=shortcut)
