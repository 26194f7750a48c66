"""MambaIRv2: window attention and scans over tokens sorted by class; the package registers its variants."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo.layers.attentive import AttentiveLayer, Noise
from vimzoo.layers.checks import check_sizes
from vimzoo.layers.reconstruction import ImageHead, residual_conv

from ..export_options import ExportOptions
from ..restoration_base import check_image
from ..routes import check_routing
from ..weights.contents import ROUTING
from ..weights.grids import GridModel
from ..weights.loading import load_into
from .model import NamedRestorationModel, ResidualGroup
from .names import checkpoint_filter_fn

__all__ = ["AttentiveGroup", "MambaIRv2", "checkpoint_filter_fn"]


class AttentiveGroup(ResidualGroup):
    """A `ResidualGroup` of layers that route."""

    def forward(self, x: Tensor, noise: Noise | None = None, recompute: bool = False) -> Tensor:  # type: ignore[override]
        """Map ``(B, H, W, C)`` -> the same; ``recompute`` layers in the backward pass."""
        y = x
        for block in self.blocks:
            y = checkpoint(block, y, _Once(noise)) if recompute else block(y, noise)
        return self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + x


class _Once:
    """The noise of one layer, drawn once: a layer that is recomputed must route as it did."""

    def __init__(self, noise: Noise | None) -> None:
        self.noise = noise
        self.drawn: Tensor | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        if self.drawn is None:
            self.drawn = torch.zeros_like(scores) if self.noise is None else self.noise(scores)
        return self.drawn


class MambaIRv2(GridModel, NamedRestorationModel):
    """MambaIRv2 (Guo et al., CVPR 2025); images of any size, padded inside to whole windows.

    The authors' names are in parentheses where they differ; `vimzoo.compat.mambair.MambaIRv2` takes those.

    Args:
        in_chans: Channels of the images; the mean of RGB images is subtracted on the way in and added at the end.
        embed_dim: Channels C of the maps.
        depths: Layers per residual group; every second one shifts its windows by half.
        num_heads: Attention heads, one number or one per group.
        window: Side of the windows (``window_size``).
        d_state, ratio, num_tokens, rank: As in `vimzoo.layers.attentive.AttentiveScan` (``mlp_ratio``,
            ``inner_rank``).
        kernel: Size of the feed-forward layers' convolution (``convffn_kernel_size``).
        gated: Gated feed-forward layers: the authors' ``MambaIRv2Light``.
        qkv_bias: Bias of queries, keys and values.
        scale, upsampler, resi_connection, img_range, stem_norm: As in `MambaIR`.
        pos_embed_size: Sides of the map that a learned position embedding is for (``ape``, ``img_size``), after
            padding; ``None`` for none, as in all published models.
        routing: ``"gumbel"``: classes are drawn at random, also in evaluation, as published; ``"argmax"``: the
            likeliest class, which is always the same. Weights are trained for one of the two: to evaluate with
            ``"argmax"``, train with it. The state dict records the routing (in ``_metadata``).

    Attributes:
        generator: Source of the random routes, ``None`` for torch's own; ``model.generator =
            torch.Generator().manual_seed(0)`` before each call makes it repeatable.
        route_noise: ``None``, or a function from routing logits ``(B, tokens, classes)`` to the noise that is added,
            called once per layer, in order; it replaces ``routing``.

    Both are settings of the model, shared by all threads that use it. What belongs to one call is the argument
    ``noise`` of `forward`.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    # A file cannot draw random numbers
    export_options = ExportOptions(settings={"routing": "argmax"}, size_step=1, agreement=0.95)
    generator: torch.Generator | None = None
    route_noise: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 48,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: int | Sequence[int] = 4,
        window: int = 16,
        d_state: int = 8,
        ratio: float = 2.0,
        num_tokens: int = 64,
        rank: int = 32,
        kernel: int = 5,
        gated: bool = False,
        qkv_bias: bool = True,
        scale: int = 2,
        upsampler: str = "",
        resi_connection: str = "1conv",
        img_range: float = 1.0,
        stem_norm: bool = True,
        pos_embed_size: tuple[int, int] | None = None,
        routing: str = "gumbel",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        heads = [num_heads] * len(depths) if isinstance(num_heads, int | Integral) else list(num_heads)
        if not depths or min(depths) < 1:
            raise ValueError(f"depths: expected a positive number of layers per group, got {tuple(depths)}")
        if len(heads) != len(depths):
            raise ValueError(f"num_heads: expected {len(depths)} numbers, or one, got {tuple(heads)}")
        if not img_range > 0:
            raise ValueError(f"img_range: expected a positive number, got {img_range}")
        check_sizes(in_chans=in_chans, embed_dim=embed_dim, window=window)
        self.in_chans = in_chans
        self.embed_dim = self.num_features = embed_dim
        self.window = window
        self.scale = scale if upsampler else 1
        self.upsampler = upsampler
        self.img_range = img_range
        self.routing = check_routing(routing)
        self.feature_info = [
            dict(num_chs=embed_dim, reduction=1, module=f"groups.{i}") for i in range(len(depths))
        ]
        self.mean: Tensor
        self._keep_mean(in_chans, **dd)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1, **dd)
        self.stem_norm = nn.LayerNorm(embed_dim, **dd) if stem_norm else nn.Identity()
        self.pos_embed_size = pos_embed_size
        self.pos_embed = None
        if pos_embed_size is not None:
            tokens = pos_embed_size[0] * pos_embed_size[1]
            self.pos_embed = nn.Parameter(torch.empty(1, tokens, embed_dim, **dd))
        layer: dict[str, Any] = dict(
            d_state=d_state, ratio=ratio, num_tokens=num_tokens, rank=rank, kernel=kernel, gated=gated,
            qkv_bias=qkv_bias,
        )  # fmt: skip
        self.groups = nn.ModuleList(
            AttentiveGroup(
                [
                    AttentiveLayer(embed_dim, head, window, window // 2 * (i % 2), **layer, **dd)
                    for i in range(depth)
                ],
                residual_conv(embed_dim, resi_connection, **dd),
            )
            for depth, head in zip(depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim, **dd)
        self.conv_body = residual_conv(embed_dim, resi_connection, **dd)
        self.head = ImageHead(embed_dim, in_chans, scale, upsampler, **dd)
        self.init_weights(needs_reset=False)

    def pos_embed_layout(self) -> tuple[tuple[int, int], str, int]:
        """As `GridModel` asks for it."""
        assert self.pos_embed_size is not None
        return self.pos_embed_size, "none", 0

    @torch.jit.ignore
    def load_pretrained(
        self,
        checkpoint_path: str | os.PathLike[str],
        prefix: str = "",
        *,
        use_ema: bool | None = None,
        pos_embed_grid: tuple[int, int] | None = None,
    ) -> None:
        """Load a file of ours or the authors', as `vimzoo.load_checkpoint` does, with its arguments and errors."""
        filter_fn = partial(checkpoint_filter_fn, pos_embed_grid=pos_embed_grid)
        load_into(self, checkpoint_path, filter_fn, use_ema=use_ema, prefix=prefix)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if (metadata := getattr(destination, "_metadata", None)) is not None:
            metadata.setdefault(prefix[:-1], {})[ROUTING] = self.routing

    def init_weights(self, needs_reset: bool = True) -> None:
        """As `RestorationModel.init_weights`; the position embedding is normal with deviation 0.02 too."""
        super().init_weights(needs_reset)
        if self.pos_embed is not None:
            trunc_normal_(self.pos_embed, std=0.02)

    def forward_features(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """First map ``(B, H, W, C)`` with sides in windows -> deep features of the same shape.

        ``noise`` is as in `forward`.

        Raises:
            ValueError: the position embedding is for another size.
        """
        y = self.stem_norm(x)
        if self.pos_embed is not None:
            if tuple(y.shape[1:3]) != self.pos_embed_size:
                raise ValueError(f"x: expected a map of {self.pos_embed_size}, got {tuple(y.shape[1:3])}")
            y = y + self.pos_embed.unflatten(1, y.shape[1:3])
        noise = noise or self._noise()
        for group in self.groups:
            y = group(y, noise, self.grad_checkpointing)
        return self.conv_body(self.norm(y).permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + x

    def _noise(self) -> Noise | None:
        if self.route_noise is not None:
            return self.route_noise
        return self._gumbel if self.routing == "gumbel" else None

    def _gumbel(self, scores: Tensor) -> Tensor:
        """Gumbel noise: the likeliest class after adding it is a draw by the scores' probabilities."""
        return -torch.empty_like(scores).exponential_(generator=self.generator).log()

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Images ``(B, channels, H, W)``, as trained in 0..1 -> images ``(B, channels, H scale, W scale)``.

        Args:
            x: The images.
            noise: Replaces ``route_noise`` for this call: a function from routing logits
                ``(B, tokens, classes)`` to the noise that is added, called once per layer in order.

        Raises:
            ValueError: ``x`` has another number of axes or channels.
        """
        x = check_image(x, self.in_chans)
        height, width = x.shape[2], x.shape[3]
        mean = self.mean.to(x.dtype)
        x = (mirrored(x, self.window) - mean) * self.img_range
        y = self.head(self.forward_features(self.conv_first(x).permute(0, 2, 3, 1), noise))
        if not self.upsampler:
            y = y + x
        return (y / self.img_range + mean)[:, :, : height * self.scale, : width * self.scale]


def mirrored(x: Tensor, multiple: int) -> Tensor:
    """Images ``(B, C, H, W)`` continued right and below by their mirror image to multiples of ``multiple``.

    The border itself is repeated; an image smaller than what is missing is mirrored again and again. Whole windows
    take the same way, else a graph exported from them would take nothing else, and no number below zero is divided,
    which ONNX rounds otherwise.
    """
    for axis in (2, 3):
        size = x.shape[axis]
        period = torch.full(
            (1,), 2 * size, dtype=torch.int64, device=x.device
        )  # for exporters, which need a tensor
        index = torch.arange((size + multiple - 1) // multiple * multiple, device=x.device) % period
        x = x.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
    return x
