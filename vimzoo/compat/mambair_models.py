"""The MambaIR authors' networks: our models, with their arguments and attributes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from timm.layers import to_2tuple
from torch import Tensor, nn

from vimzoo.layers.attentive import relative_index
from vimzoo.models.counting import count_operations
from vimzoo.models.mambair import model as mambair_model
from vimzoo.models.mambair import unet as mambair_unet
from vimzoo.models.mambair import v2 as mambair_v2_model

from .attributes import Alias, Computed, Fixed, OfficialModel, given_arguments, refuse_unknown
from .mambair_forms import accept_any_form
from .mambair_layers import PatchEmbed, PatchUnEmbed

WITHOUT_EFFECT = ("interval", "num_heads", "window_size")
"""What the authors' option files have for MambaIR, and its ``**kwargs`` swallow."""


def _check_norm(norm_layer: Any) -> None:
    if norm_layer is not nn.LayerNorm:
        raise ValueError(f"norm_layer: expected torch.nn.LayerNorm, got {norm_layer!r}")


class _Network(OfficialModel):
    """What MambaIR and MambaIRv2 have of the authors' attributes.

    ``layers`` are residual groups on maps with channels last; ``img_size`` and ``patch_size`` only fill in
    ``patches_resolution``.
    """

    layers = Alias("groups")
    conv_after_body = Alias("conv_body")
    conv_up1, conv_up2, conv_hr = Alias("head.conv_up1"), Alias("head.conv_up2"), Alias("head.conv_hr")
    conv_last = Alias("head.conv_out")
    upscale, patch_norm, mlp_ratio = Fixed(), Fixed(), Fixed()

    @Computed
    def num_layers(self) -> int:
        """Number of residual groups."""
        return len(self.arguments["depths"])

    @Computed
    def patch_embed(self) -> PatchEmbed:
        """From maps to tokens, with the model's norm."""
        return self._patches(PatchEmbed, (lambda dim: self.stem_norm) if self.patch_norm else None)

    @Computed
    def patch_unembed(self) -> PatchUnEmbed:
        """From tokens to maps."""
        return self._patches(PatchUnEmbed, None)

    def _patches(self, kind: type[Any], norm_layer: Callable[[int], Any] | None) -> Any:
        dim = self.embed_dim
        return kind(self.arguments["img_size"], self.arguments["patch_size"], dim, dim, norm_layer)

    @Computed
    def patches_resolution(self) -> list[int]:
        """Sides of the map that ``img_size`` becomes."""
        return self.patch_unembed.patches_resolution

    @Computed
    def conv_before_upsample(self) -> nn.Sequential:
        """The convolution before the upsampling, and its activation."""
        return nn.Sequential(self.head.conv_in, nn.LeakyReLU(0.01))  # type: ignore[union-attr, arg-type]

    @Computed
    def upsample(self) -> nn.Sequential:
        """The convolutions of the upsampling, each with its pixel shuffle."""
        head: Any = self.head
        return nn.Sequential(*(part for conv in head.ups for part in (conv, nn.PixelShuffle(head.step))))

    def no_weight_decay_keywords(self) -> dict[str, Any]:
        """None: `no_weight_decay` has whole names."""
        return {}

    def flops(self) -> int:
        """Operations of one image of ``img_size``, a multiply-add as 1; the authors' own count fails."""
        size = to_2tuple(self.arguments["img_size"])
        return count_operations(self, (self.arguments["in_chans"], *size))[1]

    def _finish(self, given: dict[str, Any]) -> None:
        self.arguments = given
        self.set_grad_checkpointing(given["use_checkpoint"])  # type: ignore[operator]
        accept_any_form(self)


class MambaIR(_Network, mambair_model.MambaIR):
    """MambaIR with the authors' arguments, positions and defaults.

    ``window_size``, ``num_heads`` and ``interval``, which are in their option files, have no effect, as in theirs.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    pos_drop = Alias("stem_drop")

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        drop_rate: float = 0.0,
        d_state: int = 16,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.1,
        norm_layer: Any = nn.LayerNorm,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "",
        resi_connection: str = "1conv",
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("MambaIR", kwargs, WITHOUT_EFFECT)
        _check_norm(norm_layer)
        super().__init__(
            in_chans, embed_dim, depths, d_state, mlp_ratio, upscale, upsampler, resi_connection=resi_connection,
            img_range=img_range, stem_norm=patch_norm, drop_path_rate=drop_path_rate, drop_rate=drop_rate,
        )  # fmt: skip
        self._finish(given)

    @Computed
    def is_light_sr(self) -> bool:
        """Whether the blocks have the light form."""
        return self.upsampler == "pixelshuffledirect"


class MambaIRUNet(OfficialModel, mambair_unet.MambaIRUNet):
    """The U-Net with the authors' arguments; its state sizes are today's until older tensors are loaded.

    Raises:
        ValueError: an argument has no such value, or ``dual_pixel_task`` is asked for.
    """

    mlp_ratio, dual_pixel_task = Fixed(), Fixed()

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        mlp_ratio: float = 2.0,
        num_refinement_blocks: int = 4,
        drop_path_rate: float = 0.0,
        bias: bool = False,
        dual_pixel_task: bool = False,
    ) -> None:
        given = given_arguments(locals())
        if dual_pixel_task:
            raise ValueError("dual_pixel_task: expected False, the authors' code fails with it")
        super().__init__(
            inp_channels,
            out_channels,
            dim,
            num_blocks,
            num_refinement_blocks,
            mlp_ratio,
            16,
            bias,
            drop_path_rate,
        )
        self.arguments = given
        accept_any_form(self)

    def forward(self, inp_img: Tensor) -> Tensor:
        """As `vimzoo.models.MambaIRUNet`, with the authors' argument name."""
        return super().forward(inp_img)

    @Computed
    def patch_embed(self) -> nn.Sequential:
        """The first convolution, under their name ``proj``."""
        return nn.Sequential(OrderedDict(proj=self.conv_first))


class MambaIRv2(_Network, mambair_v2_model.MambaIRv2):
    """MambaIRv2 with the authors' arguments, positions and defaults.

    ``routing``, ``route_noise`` and ``generator`` are ours, see `vimzoo.models.MambaIRv2`.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    gated = False
    window_size, absolute_pos_embed, ape = Alias("window"), Alias("pos_embed"), Fixed()

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 48,
        d_state: int = 8,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (4, 4, 4, 4),
        window_size: int = 16,
        inner_rank: int = 32,
        num_tokens: int = 64,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        norm_layer: Any = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "",
        resi_connection: str = "1conv",
        *,
        routing: str = "gumbel",
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown(type(self).__name__, kwargs)
        _check_norm(norm_layer)
        height, width = (img_size, img_size) if isinstance(img_size, int | Integral) else img_size
        super().__init__(
            in_chans, embed_dim, depths, num_heads, window_size, d_state, mlp_ratio, num_tokens, inner_rank,
            convffn_kernel_size, self.gated, qkv_bias, upscale, upsampler, resi_connection, img_range, patch_norm,
            (height // patch_size, width // patch_size) if ape else None, routing,
        )  # fmt: skip
        self._finish(given)

    def calculate_rpi_sa(self) -> Tensor:
        """The index table ``(tokens, tokens)`` of offsets in a window."""
        return relative_index(self.window, self.window)

    @Computed
    def relative_position_index_SA(self) -> Tensor:
        """`calculate_rpi_sa`, which is computed here and not stored."""
        return self.calculate_rpi_sa()


class MambaIRv2Light(MambaIRv2):
    """The light MambaIRv2, with gated feed-forward layers, with the authors' arguments.

    Raises:
        ValueError: an argument has no such value.
    """

    gated = True
