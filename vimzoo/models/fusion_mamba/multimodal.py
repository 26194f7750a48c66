"""MultimodalFusionMamba: one picture of two of the same scene, such as infrared and visible light (Xie et al. 2024).

It takes two images; ``task=fuse`` trains it, and `python -m vimzoo.restore` takes the second one by ``--with``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from vimzoo.layers import SS2D, ChannelGate, MapDownsample, MapExpand, MapStem, Mlp, apply_linear
from vimzoo.layers.checks import check_floating, check_rates, check_sizes
from vimzoo.layers.plain import apply_conv, apply_norm

from ..export_options import ExportOptions
from ..inputs import Input, ModelWithInputs
from ..staged import Stage
from ..vm_unet.model import UpStage
from ..vmamba.first_release import drop_rates, init_linears
from .descriptive import DescriptiveConv, MapGate
from .halves import halves

__all__ = ["MultimodalFusionMamba"]

_SCAN: dict[str, Any] = dict(ratio=2.0, conv_bias=True, gate="act", paths="atrous")
_PATCH = 4


class DescribedBlock(nn.Module):
    """A scan of four quarters of the map and a descriptive convolution of what it gives, both gated, then an MLP.

    Args:
        dim: Channels C, at least 8.
        d_state: States N of the scan.
        drop_path: Rate at which each of the two branches is dropped.
    """

    def __init__(self, dim: int, d_state: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.ss2d = SS2D(dim, d_state, **_SCAN)
        self.describe = DescriptiveConv(dim)
        self.eca = MapGate()
        self.channel_gate = ChannelGate(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``."""
        scanned = self.ss2d(apply_norm(self.norm1, x))
        described = self.describe(scanned + self.eca(scanned))
        gated = self.channel_gate(scanned.flatten(1, 2)) + self.channel_gate(described.flatten(1, 2))
        x = x + self.drop_path(gated.reshape(x.shape))
        return x + self.drop_path(self.mlp(apply_norm(self.norm2, x)))


class JoinedSS2D(SS2D):
    """`SS2D` of two maps: their inner maps a and b are scanned as ``a + b + a b``, with the gate of the first.

    The gate is ``silu(z) + silu(silu(z))`` with z of the first map, as in the authors' code: half of the second map's
    projection has no effect.

    Args:
        dim: Channels C of the maps.
        **options: As `SS2D` takes them.
    """

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.in_proj2 = nn.Linear(dim, 2 * self.ssm.dim, bias=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        """Maps ``(B, H, W, C)`` twice ``-> (B, H, W, C)``."""
        first, z = apply_linear(self.in_proj, x).chunk(2, dim=-1)
        second = F.linear(other, self.in_proj2.weight[: first.shape[3]])
        a, b = halves(apply_conv(self.conv, torch.cat([first, second]), self.act))  # type: ignore[arg-type]
        y = apply_norm(self.out_norm, self.scan(a + b + a * b))
        gate = F.silu(z)
        return apply_linear(self.out_proj, y * (gate + F.silu(gate)))


class Join(nn.Module):
    """One map of two: each with its texture and with what sets it apart, then a scan of both.

    Args:
        dim: Channels C.
        d_state: States N of the scan.
    """

    def __init__(self, dim: int, d_state: int) -> None:
        super().__init__()
        self.texture, self.texture2 = DescriptiveConv(dim), DescriptiveConv(dim)
        self.unused = nn.Conv2d(dim, dim // 2, 1)  # the authors' files hold it
        self.unused.requires_grad_(False)
        self.norm, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ss2d = JoinedSS2D(dim, d_state=d_state, **_SCAN)
        self.eca = MapGate()

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Maps ``(B, H, W, C)`` twice ``-> (B, H, W, C)``."""
        both = x + other
        difference = (x - other).mean((1, 2), keepdim=True)
        first = x + self.texture(x) + difference.sigmoid() * both
        second = other + self.texture2(other) + (-difference).sigmoid() * both
        y = self.ss2d(apply_norm(self.norm, first), apply_norm(self.norm2, second))
        return both + y + self.eca(y)


class MultimodalFusionMamba(ModelWithInputs):
    """Joins two pictures of one scene (infrared and visible, CT and MRI, PET and MRI) into one.

    A U-shaped network. One encoder reads both pictures, each after a stem of its own. The decoder begins with the sum
    of the last two maps; the joined maps that all stages but the first begin with are added to it. Twice either picture
    is added to the output. The first stage's `Join` has no effect and is not computed, but is in the authors' files.

    Args:
        depths, decoder_depths: Blocks of each stage.
        dims: Channels of each stage of the encoder, at least 8.
        in_chans: Channels of each picture and of the output. The published model has one.
        d_state: States per channel.
        drop_path_rate: Stochastic depth of the encoder's last and the decoder's first block.

    Raises:
        ValueError: a number is not positive, the two sides differ in stages, or a rate is not in 0..1.
    """

    export_options = ExportOptions(one_size=True)

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 9, 2),
        decoder_depths: Sequence[int] = (2, 9, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        in_chans: int = 1,
        d_state: int = 16,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(in_chans=in_chans, d_state=d_state)
        check_rates(drop_path_rate=drop_path_rate)
        if not len(dims) == len(depths) == len(decoder_depths) or min(*dims, *depths, *decoder_depths) < 1:
            raise ValueError(
                f"depths={tuple(depths)}, decoder_depths={tuple(decoder_depths)}, dims={tuple(dims)}: expected one "
                "positive number per stage each"
            )
        self.in_chans = in_chans
        self.num_features = dims[0] // 4
        self.inputs = {"x": Input((in_chans,)), "other": Input((in_chans,))}
        self.multiple_of = _PATCH * 2 ** (len(dims) - 1)
        self.stems = nn.ModuleList(MapStem(in_chans, dims[0], _PATCH, "patch", "layer") for _ in range(2))
        self.joins = nn.ModuleList(Join(width, d_state) for width in dims)
        self.joins[0].requires_grad_(False)
        left = iter(drop_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
        for i, width in enumerate(dims):
            down = MapDownsample(dims[i - 1], width, "merge", "layer") if i else nn.Identity()
            blocks = [DescribedBlock(width, d_state, next(left)) for _ in range(depths[i])]
            self.stages.append(Stage(down, blocks))
        left = iter(drop_rates(drop_path_rate, sum(decoder_depths))[::-1])
        self.up_stages = nn.ModuleList()
        for i, width in enumerate(reversed(dims)):
            expand = MapExpand(dims[-i], width) if i else nn.Identity()
            blocks = [DescribedBlock(width, d_state, next(left)) for _ in range(decoder_depths[i])]
            self.up_stages.append(UpStage(expand, blocks))
        self.final = MapExpand(dims[0], dims[0] // 4, _PATCH)
        self.head = nn.Conv2d(dims[0] // 4, in_chans, 1)
        init_linears(self)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Joins two pictures.

        Args:
            x, other: The first (infrared, MRI) and the second picture, ``(B, in_chans, H, W)`` each.

        Returns:
            ``(B, in_chans, H, W)``.

        Raises:
            TypeError: a picture is not a tensor.
            ValueError: they are not such pictures, they differ in shape, or their sides are not multiples of 4 times
                2 to the power of the steps down, which is 32 with four stages.
        """
        self._check(x, other)
        both = torch.cat([stem(picture) for stem, picture in zip(self.stems, (x, other), strict=True)])
        joined: list[Tensor] = []
        for i, (stage, join) in enumerate(zip(self.stages, self.joins, strict=True)):
            both = stage.downsample(both)  # type: ignore[operator, union-attr]
            if i:
                joined.append(join(*halves(both)))
            both = stage.blocks(both)  # type: ignore[operator, union-attr]
        first, second = halves(both)
        y = self.up_stages[0](first + second)
        for up in self.up_stages[1:]:
            y = up(y + joined.pop())
        return self.head(self.final(y).permute(0, 3, 1, 2)) + 2 * x + 2 * other

    def _check(self, x: Tensor, other: Tensor) -> None:
        for name, picture in {"x": x, "other": other}.items():
            try:
                check_floating(picture)
            except (TypeError, ValueError) as error:
                raise type(error)(str(error).replace("x:", f"{name}:", 1)) from None
            if picture.dim() != 4 or picture.shape[1] != self.in_chans:
                raise ValueError(
                    f"{name}: expected pictures (B, {self.in_chans}, H, W), got shape {tuple(picture.shape)}"
                )
        if x.shape[0] != other.shape[0] or x.shape[2] != other.shape[2] or x.shape[3] != other.shape[3]:
            raise ValueError(f"other: expected the shape of x, {tuple(x.shape)}, got {tuple(other.shape)}")
        height, width, step = x.shape[2], x.shape[3], self.multiple_of
        if height % step or width % step or not height or not width:
            raise ValueError(f"x: expected height and width in multiples of {step}, got {height} x {width}")
