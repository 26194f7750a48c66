"""The MambaIR authors' constructors (csguoh/MambaIR: basicsr/archs and realDenoising), returning our modules.

Code written for theirs works after changing its import line: arguments keep their names and meaning, and
``load_state_dict`` takes their keys. The same call built different networks over time: blocks of light models had
three forms, the U-Net's scans two sets of sizes. ``load_state_dict`` reads the form off the tensors and rebuilds
what differs, so load before an optimiser is given the parameters. `official_state_dict` and `official_gradients`
write state and gradients back under their names. `vimzoo.models` documents each option.

Upstream bugs that are not imitated: ``use_checkpoint=True`` works, MambaIRv2 takes images smaller than half a
window, and tokens of a class are always scanned in the map's order. Refused: ``dual_pixel_task=True``, which runs
nowhere. Not offered: ``flops()``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo import layers
from vimzoo.layers import mambair as restoration
from vimzoo.layers.attentive import relative_index
from vimzoo.layers.mambair import cab_form
from vimzoo.models.mambair import model as mambair_model
from vimzoo.models.mambair import unet as mambair_unet
from vimzoo.models.mambair import v2 as mambair_v2_model
from vimzoo.models.mambair.names import INDEX_BUFFER, MAMBAIR

from .group_attention import DynamicPosBias, GroupAttention
from .official import accept_official_names, official_gradients
from .official import official_state_dict as _official_state_dict

__all__ = [
    "CAB", "SS2D", "Attention", "ChannelAttention", "DynamicPosBias", "MambaIR", "MambaIRUNet", "MambaIRv2",
    "MambaIRv2Light", "VSSBlock", "official_gradients", "official_state_dict",
]  # fmt: skip


BLOCK_NORM = partial(nn.LayerNorm, eps=1e-6)
"""The first norm of a bare block; in models it has the usual 1e-5."""


def official_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state of a model or block under the authors' names, with the index table that MambaIRv2 files hold."""
    state = _official_state_dict(module)
    window = getattr(module, "window", None)
    if isinstance(module, mambair_v2_model.MambaIRv2) and window is not None:
        state[INDEX_BUFFER] = relative_index(window, window)
    return state


def _accept(module: nn.Module) -> None:
    """Take the authors' names, in whichever form of the network a state dict is."""
    module.register_load_state_dict_pre_hook(_rebuild)  # before the names are translated
    accept_official_names(module)


def _rebuild(owner: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Give every part of ``owner`` the form that the tensors for it have."""
    for slot in MAMBAIR.slots(owner):
        found = state.get(prefix + slot.official, state.get(prefix + slot.ours))
        if not isinstance(found, Tensor) or not slot.ours.endswith(("convs.0.weight", "ssm.A_log")):
            continue
        path = slot.ours.rpartition("convs." if "convs." in slot.ours else ".")[0].rstrip(".")
        part = owner.get_submodule(path)
        if isinstance(part, restoration.CAB):
            form = cab_form(found.shape, part.dim, part.compress)
            if form is not None and form != part.form:
                part.change_form(form)
        if isinstance(part, layers.SelectiveSSM) and isinstance(owner, MambaIRUNet) and found.dim() > 1:
            owner.get_submodule(path.rpartition(".")[0]).ssm = _with_states(part, found.shape[-1])


def _with_states(ssm: layers.SelectiveSSM, d_state: int) -> layers.SelectiveSSM:
    """The scan itself, or a new one if its number of states is another."""
    if d_state == ssm.d_state:
        return ssm
    like = ssm.A_log
    return layers.SelectiveSSM(
        ssm.dim, d_state, ssm.dt_rank, ssm.directions, device=like.device, dtype=like.dtype
    )


def _check_norm(norm_layer: Any) -> None:
    if norm_layer is not nn.LayerNorm:
        raise ValueError(f"norm_layer: expected torch.nn.LayerNorm, got {norm_layer!r}")


class ChannelAttention(restoration.ChannelAttention):
    """Channel attention of maps ``(B, C, H, W)``.

    Raises:
        ValueError: There are fewer channels than ``squeeze_factor``.
    """

    def __init__(self, num_feat: int, squeeze_factor: int = 16) -> None:
        super().__init__(num_feat, squeeze_factor)
        _accept(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, scaled."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class CAB(restoration.CAB):
    """The channel-attention block of maps ``(B, C, H, W)``; ``is_light_sr`` is today's light form.

    Raises:
        ValueError: There are fewer channels than ``squeeze_factor``.
    """

    def __init__(
        self, num_feat: int, is_light_sr: bool = False, compress_ratio: int = 3, squeeze_factor: int = 30
    ) -> None:
        super().__init__(num_feat, "light" if is_light_sr else "conv", compress_ratio, squeeze_factor)
        _accept(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(GroupAttention):
    """Attention in groups, by the authors' arguments.

    Raises:
        ValueError: Heads do not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        position_bias: bool = True,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, qk_scale, position_bias, attn_drop, proj_drop)

    def forward(self, x: Tensor, H: int, W: int, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """As `GroupAttention`, with the authors' argument names."""
        return super().forward(x, H, W, mask)


def _scan_options(
    dt_rank: int | str = "auto",
    d_conv: int = 3,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    dt_init: str = "random",
    dt_scale: float = 1.0,
    dt_init_floor: float = 1e-4,
    conv_bias: bool = True,
    bias: bool = False,
) -> dict[str, Any]:
    """The authors' further arguments of SS2D -> ours."""
    return dict(
        dt_rank=None if dt_rank == "auto" else dt_rank, d_conv=d_conv, dt_min=dt_min, dt_max=dt_max,
        dt_init=dt_init, dt_scale=dt_scale, dt_floor=dt_init_floor, conv_bias=conv_bias, proj_bias=bias, gate="act",
    )  # fmt: skip


class SS2D(layers.SS2D):
    """SS2D on maps ``(B, H, W, C)`` by the authors' arguments.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 3,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        scan = _scan_options(dt_rank, d_conv, **options)
        super().__init__(d_model, d_state, expand, drop_rate=dropout, **scan, device=device, dtype=dtype)
        accept_official_names(self)


class VSSBlock(restoration.RestorationBlock):
    """The residual state-space block on tokens, by the authors' arguments.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        hidden_dim: int = 0,
        drop_path: float = 0,
        norm_layer: Callable[..., nn.Module] = BLOCK_NORM,
        attn_drop_rate: float = 0,
        d_state: int = 16,
        expand: float = 2.0,
        is_light_sr: bool = False,
        **options: Any,
    ) -> None:
        norm = norm_layer(hidden_dim)
        if not isinstance(norm, nn.LayerNorm):
            raise ValueError(f"norm_layer: expected a LayerNorm, got {norm_layer!r}")
        super().__init__(
            hidden_dim, d_state, expand, "light" if is_light_sr else "conv", norm.eps, attn_drop_rate, drop_path,
            _scan_options(**options),
        )  # fmt: skip
        _accept(self)

    def forward(self, input: Tensor, x_size: Sequence[int]) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, H W, C)`` of an ``x_size = (H, W)`` map -> the same."""
        return super().forward(input.unflatten(1, tuple(x_size))).flatten(1, 2)


class MambaIR(mambair_model.MambaIR):
    """MambaIR by the authors' arguments, positions and defaults; unknown ones are ignored, as theirs does.

    Raises:
        ValueError: an argument has no such value.
    """

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
        **ignored: Any,
    ) -> None:
        _check_norm(norm_layer)
        super().__init__(
            in_chans, embed_dim, depths, d_state, mlp_ratio, upscale, upsampler, resi_connection=resi_connection,
            img_range=img_range, stem_norm=patch_norm, drop_path_rate=drop_path_rate, drop_rate=drop_rate,
        )  # fmt: skip
        self.upscale = upscale
        self.set_grad_checkpointing(use_checkpoint)
        _accept(self)


class MambaIRUNet(mambair_unet.MambaIRUNet):
    """The U-Net by the authors' arguments; its state sizes are today's until older tensors are loaded.

    Raises:
        ValueError: an argument has no such value, or ``dual_pixel_task`` is asked for.
    """

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
        _accept(self)


class MambaIRv2(mambair_v2_model.MambaIRv2):
    """MambaIRv2 by the authors' arguments, positions and defaults; unknown ones are ignored, as theirs does.

    ``routing``, ``route_noise`` and ``generator`` are ours, see `vimzoo.models.MambaIRv2`.

    Raises:
        ValueError: an argument has no such value.
    """

    gated = False

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
        routing: str = "gumbel",
        **ignored: Any,
    ) -> None:
        _check_norm(norm_layer)
        height, width = (img_size, img_size) if isinstance(img_size, int | Integral) else img_size
        super().__init__(
            in_chans, embed_dim, depths, num_heads, window_size, d_state, mlp_ratio, num_tokens, inner_rank,
            convffn_kernel_size, self.gated, qkv_bias, upscale, upsampler, resi_connection, img_range, patch_norm,
            (height // patch_size, width // patch_size) if ape else None, routing,
        )  # fmt: skip
        self.upscale = upscale
        self.set_grad_checkpointing(use_checkpoint)
        _accept(self)


class MambaIRv2Light(MambaIRv2):
    """The light MambaIRv2, with gated feed-forward layers, by the authors' arguments.

    Raises:
        ValueError: an argument has no such value.
    """

    gated = True
