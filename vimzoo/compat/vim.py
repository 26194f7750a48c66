"""The Vim authors' constructors (hustvl/Vim: models_mamba.py, seg/backbone/vim.py, det's vim.py), returning
our modules.

Code written for theirs works after changing its import line: arguments keep their names and meaning, and
``load_state_dict`` takes their keys. `official_state_dict` and `official_gradients` write state and
gradients back under their names. `vimzoo.models.vim.Vim` documents each option; this module only maps the names.

Upstream bugs that are not imitated: classes as the axis of the ``"max"`` pooling with a class token,
segmentation arguments passed into the wrong positions, square-only feature maps, prints, and the dense
backbones' initialisation, which resets all step sizes to softplus(0).
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vimzoo.layers import Add, BiMambaBlock
from vimzoo.models.tokens import resize_pos_embed
from vimzoo.models.vim import VIM_FACTS, VIM_LONG_NAMES
from vimzoo.models.vim.ablations import VimAblation
from vimzoo.models.vim.dense import VimDense

from .mamba_ssm import Mamba, refuse_inference
from .official import accept_official_names, official_gradients, official_state_dict

__all__ = [
    "Mamba",
    "VisionMamba",
    "VisionMambaDet",
    "VisionMambaSeg",
    "create_block",
    "interpolate_pos_embed",
    "official_gradients",
    "official_state_dict",
    "vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2",
    "vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
    "vim_small_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
    "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
    "vim_tiny_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
]

POOLS = {"none": "last", "mean": "avg", "max": "max", "all": ""}
# their main.py passes these through timm, their **kwargs swallow them
_SWALLOWED = (
    "drop_block_rate",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "ft_seq_len",
    "initializer_cfg",
)
_MIXER = dict(d_conv="d_conv", expand="expand", conv_bias="conv_bias", bias="proj_bias")
_STEP_SIZES = dict(
    dt_min="dt_min", dt_max="dt_max", dt_init="dt_init", dt_scale="dt_scale", dt_init_floor="dt_floor"
)


def _mixer_options(ssm_cfg: Mapping[str, Any] | None, whole_model: bool = False) -> dict[str, Any]:
    """`Mamba` arguments in ``ssm_cfg`` -> `BiMamba`'s, or `Vim`'s, which groups the step sizes."""
    given = dict(ssm_cfg or {})
    given.pop("use_fast_path", None)
    rank = given.pop("dt_rank", "auto")
    options: dict[str, Any] = {} if rank == "auto" else {"dt_rank": rank}
    options.update({_MIXER[key]: given.pop(key) for key in list(given) if key in _MIXER})
    steps = {_STEP_SIZES[key]: given.pop(key) for key in list(given) if key in _STEP_SIZES}
    if given:
        raise TypeError(f"ssm_cfg: unexpected {sorted(given)}")
    return {**options, **({"step_sizes": steps} if whole_model else steps)}


def _model_options(
    img_size: Any = 224,
    patch_size: Any = 16,
    stride: Any = 16,
    depth: int = 24,
    embed_dim: int = 192,
    d_state: int = 16,
    channels: int = 3,
    ssm_cfg: Mapping[str, Any] | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = True,
    fused_add_norm: bool = True,
    residual_in_fp32: bool = True,
    device: Any = None,
    dtype: Any = None,
    pt_hw_seq_len: int = 14,
    if_bidirectional: bool = False,
    if_abs_pos_embed: bool = True,
    if_rope: bool = False,
    if_rope_residual: bool = False,
    flip_img_sequences_ratio: float = -1.0,
    if_bimamba: bool = False,
    bimamba_type: str = "v2",
    if_divide_out: bool = True,
    if_devide_out: bool = True,
    init_layer_scale: float | None = None,
    **swallowed: Any,
) -> dict[str, Any]:
    """The authors' keyword arguments that all three models share -> `Vim`'s."""
    unknown = [name for name in swallowed if name not in _SWALLOWED]
    if unknown:
        raise TypeError(f"unexpected keyword arguments {unknown}")
    return dict(
        img_size=img_size, patch_size=patch_size, stride=stride, depth=depth, embed_dim=embed_dim,
        d_state=d_state, in_chans=channels, pos_drop_rate=drop_rate, drop_path_rate=drop_path_rate,
        norm_eps=norm_epsilon,
        norm="rms" if rms_norm else "layer", residual_in_fp32=residual_in_fp32, device=device, dtype=dtype,
        rope_size=pt_hw_seq_len, paired=if_bidirectional, pos_embed=if_abs_pos_embed, rope=if_rope,
        rope_residual=if_rope_residual, flip_rate=max(flip_img_sequences_ratio, 0.0),
        bimamba="v1" if if_bimamba else bimamba_type, divide_out=if_divide_out and if_devide_out,
        layer_scale=init_layer_scale, **_mixer_options(ssm_cfg, whole_model=True),
    )  # fmt: skip


class VisionMamba(VimAblation):
    """Vim by the authors' arguments, positions and defaults.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        depth: int = 24,
        embed_dim: int = 192,
        d_state: int = 16,
        channels: int = 3,
        num_classes: int = 1000,
        ssm_cfg: Mapping[str, Any] | None = None,
        *,
        final_pool_type: str = "none",
        if_cls_token: bool = True,
        use_double_cls_token: bool = False,
        use_middle_cls_token: bool = True,
        **options: Any,
    ) -> None:
        if final_pool_type not in POOLS:
            raise ValueError(f"final_pool_type: expected one of {tuple(POOLS)}, got {final_pool_type!r}")
        place = "double" if use_double_cls_token else "middle" if use_middle_cls_token else "head"
        super().__init__(
            num_classes=num_classes,
            cls_token=place if if_cls_token else "none",
            global_pool="token" if if_cls_token else POOLS[final_pool_type],
            **_model_options(
                img_size, patch_size, stride, depth, embed_dim, d_state, channels, ssm_cfg, **options
            ),
        )
        accept_official_names(self)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks, under their name."""
        return self.blocks

    @property
    def norm_f(self) -> nn.Module:
        """The last norm, under their name; it returns tokens and stream."""
        return self.norm

    def forward_features(self, x: Tensor, inference_params: Any = None) -> Tensor:
        """Images -> pooled tokens (all for ``"max"``) as theirs does; timm's contract has all tokens here."""
        refuse_inference(inference_params)
        tokens = super().forward_features(x)
        return tokens if self.global_pool == "max" else self.pool(tokens)

    def forward(self, x: Tensor, return_features: bool = False, inference_params: Any = None) -> Tensor:
        """Images ``(B, C, H, W)`` -> logits, or with ``return_features`` ``forward_features``."""
        if return_features:
            return self.forward_features(x, inference_params)
        refuse_inference(inference_params)
        return self.forward_head(super().forward_features(x))


class VisionMambaSeg(VimDense):
    """The authors' mmseg backbone. As with theirs there is no class token, whatever ``if_cls_token``."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        in_chans: int = 3,
        num_classes: int = 80,
        embed_dim: int = 192,
        depth: int = 24,
        use_checkpoint: bool = False,
        pretrained: str | os.PathLike[str] | None = None,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        if_fpn: bool = True,
        use_residual_as_feature: bool = False,
        last_layer_process: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(
            out_indices,
            "stream" if use_residual_as_feature else "hidden",
            last_layer_process,
            if_fpn,
            **_model_options(
                img_size, patch_size, stride, depth, embed_dim, channels=in_chans, **_without_head(options)
            ),
        )
        self.set_grad_checkpointing(use_checkpoint)
        if pretrained is not None:
            self.load_classifier(pretrained)
        accept_official_names(self)


class VisionMambaDet(VimDense):
    """The authors' detectron2 backbone: one map of the last block, in a dict."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 80,
        embed_dim: int = 192,
        depth: int = 24,
        use_checkpoint: bool = False,
        pretrained: str | os.PathLike[str] | None = None,
        if_fpn: bool = True,
        last_layer_process: str = "none",
        out_feature: str = "last_feat",
        **options: Any,
    ) -> None:
        stride = options.pop("stride", 16)
        super().__init__(
            (depth - 1,),
            "stream",
            last_layer_process,
            False,
            **_model_options(
                img_size, patch_size, stride, depth, embed_dim, channels=in_chans, **_without_head(options)
            ),
        )
        self.out_feature = out_feature
        self.set_grad_checkpointing(use_checkpoint)
        if pretrained is not None:
            self.load_classifier(pretrained)
        if last_layer_process != "add & norm":  # theirs has no norm in its state, and cannot run this option
            self.norm = Add()  # type: ignore[assignment]
        accept_official_names(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> ``{out_feature: (B, D, h, w)}``."""
        return {self.out_feature: self._maps(x)[0]}


def _without_head(options: dict[str, Any]) -> dict[str, Any]:
    """The options without the classifier's, which a backbone does not have."""
    head = ("final_pool_type", "if_cls_token", "use_double_cls_token", "use_middle_cls_token")
    return {name: value for name, value in options.items() if name not in head}


class _Block(BiMambaBlock):
    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, residual: Tensor | None = None, inference_params: Any = None
    ) -> tuple[Tensor, Tensor]:
        refuse_inference(inference_params)
        return super().forward(hidden_states, residual)


def create_block(
    d_model: int,
    d_state: int = 16,
    ssm_cfg: Mapping[str, Any] | None = None,
    norm_epsilon: float = 1e-5,
    drop_path: float = 0.0,
    rms_norm: bool = False,
    residual_in_fp32: bool = False,
    fused_add_norm: bool = False,
    layer_idx: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    if_bimamba: bool = False,
    bimamba_type: str = "none",
    if_divide_out: bool = False,
    init_layer_scale: float | None = None,
    if_devide_out: bool = False,
) -> BiMambaBlock:
    """One block by the authors' arguments: ``(hidden_states, residual) -> (hidden_states, residual)``.

    ``fused_add_norm`` has no effect: addition and norm are always fused.
    """
    mixer = dict(
        bimamba="v1" if if_bimamba else bimamba_type, d_state=d_state,
        divide_out=if_divide_out or if_devide_out, layer_scale=init_layer_scale, **_mixer_options(ssm_cfg),
    )  # fmt: skip
    norm = "rms" if rms_norm else "layer"
    block = _Block(
        d_model, norm, norm_epsilon, residual_in_fp32, drop_path, mixer, device=device, dtype=dtype
    )
    block.layer_idx = layer_idx  # type: ignore[assignment]
    accept_official_names(block)
    return block


def interpolate_pos_embed(model: Any, state_dict: dict[str, Tensor]) -> None:
    """The authors' resize of ``state_dict["pos_embed"]`` to the model's grid, in place, shift and all.

    They take both grids for square; here the model's may be oblong.

    `vimzoo.models.tokens.resize_pos_embed` says what is wrong with it for a middle class token.

    Raises:
        ValueError: the patches of ``state_dict`` are no square grid.
    """
    rows, patches = state_dict["pos_embed"].shape[1], model.patch_embed.num_patches
    extra = model.pos_embed.shape[1] - patches
    side = math.isqrt(rows - extra)
    if side * side != rows - extra:
        raise ValueError(f"pos_embed: expected patches of a square grid, got {rows - extra}")
    grid = model.patch_embed.grid_size
    state_dict["pos_embed"] = resize_pos_embed(state_dict["pos_embed"], (side, side), grid, official=True)


def _registered(long_name: str) -> Callable[..., VisionMamba]:
    facts = VIM_FACTS[str(VIM_LONG_NAMES[long_name]).partition(".")[0]]

    def build(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
        model = VisionMamba(
            patch_size=16, stride=facts.args.get("stride", 16), embed_dim=facts.args["embed_dim"], depth=24,
            rms_norm=True, residual_in_fp32=True, fused_add_norm=True, final_pool_type="mean",
            if_abs_pos_embed=True, if_rope=False, if_rope_residual=False, bimamba_type="v2",
            if_cls_token=True, if_divide_out=True,
            use_middle_cls_token=True, **kwargs,
        )  # fmt: skip
        if pretrained:
            source = timm.create_model(
                facts.tagged_name, pretrained=True, num_classes=model.num_classes, in_chans=model.in_chans,
                img_size=model.patch_embed.img_size,
            )  # fmt: skip
            model.load_state_dict(source.state_dict())
        return model

    build.__name__ = build.__qualname__ = long_name
    build.__doc__ = f"`{facts.tagged_name}` under the name the authors register."
    return build


vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2 = _registered(
    "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
)
vim_tiny_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2 = _registered(
    "vim_tiny_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
)
vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2 = _registered(
    "vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
)
vim_small_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2 = _registered(
    "vim_small_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
)
vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2 = _registered(
    "vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2"
)
