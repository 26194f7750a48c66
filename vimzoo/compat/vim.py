"""The Vim authors' constructors (hustvl/Vim: models_mamba.py, seg/backbone/vim.py, det's vim.py), returning
our modules.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys. `create_model` builds what their ``main.py`` names.
`official_state_dict` and `official_gradients` write state and gradients back under their names.
`vimzoo.models.vim.Vim` documents each option; this module only maps the names.

Upstream bugs that are not imitated: ``"max"`` pooling over classes instead of tokens with a class token,
segmentation arguments passed into the wrong positions, square-only feature maps, prints, and the dense
backbones' initialisation, which resets all step sizes to softplus(0).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor

from vimzoo.layers import BiMambaBlock
from vimzoo.models.tokens import resize_pos_embed
from vimzoo.models.vim import VIM_FACTS, VIM_LONG_NAMES

from .mamba_ssm.modules.mamba_simple import Mamba, refuse_inference
from .mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from .official import accept_official_names, official_gradients, official_state_dict
from .vim_dense import VisionMambaDet, VisionMambaSeg
from .vim_model import VisionMamba, mixer_options

__all__ = [
    "Mamba",
    "RMSNorm",
    "VisionMamba",
    "VisionMambaDet",
    "VisionMambaSeg",
    "create_block",
    "create_model",
    "interpolate_pos_embed",
    "layer_norm_fn",
    "official_gradients",
    "official_state_dict",
    "rms_norm_fn",
    "vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2",
    "vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
    "vim_small_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
    "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
    "vim_tiny_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2",
]


class _Block(BiMambaBlock):
    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, residual: Tensor | None = None, inference_params: Any = None
    ) -> tuple[Tensor, Tensor]:
        refuse_inference(inference_params)
        return super().forward(hidden_states, residual)

    def allocate_inference_cache(self, *args: Any, **kwargs: Any) -> None:
        refuse_inference("allocate_inference_cache")


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
    """One block with the authors' arguments: ``(hidden_states, residual) -> (hidden_states, residual)``.

    ``fused_add_norm`` has no effect: addition and norm are always fused.
    """
    mixer = dict(
        bimamba="v1" if if_bimamba else bimamba_type, d_state=d_state,
        divide_out=if_divide_out or if_devide_out, layer_scale=init_layer_scale, **mixer_options(ssm_cfg),
    )  # fmt: skip
    norm = "rms" if rms_norm else "layer"
    block = _Block(
        d_model, norm, norm_epsilon, residual_in_fp32, drop_path, mixer, device=device, dtype=dtype
    )
    block.layer_idx = layer_idx  # type: ignore[assignment]
    accept_official_names(block)
    return block


def interpolate_pos_embed(model: Any, state_dict: dict[str, Tensor]) -> None:
    """Resize ``state_dict["pos_embed"]`` to the model's grid, in place, as the authors do.

    They assume that both grids are square; here the model's may be any rectangle.

    `vimzoo.models.tokens.resize_pos_embed` says what is wrong with it for a middle class token.

    Raises:
        ValueError: the patches of ``state_dict`` do not form a square grid.
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


def create_model(model_name: str, pretrained: bool = False, **options: Any) -> Any:
    """Replaces timm's function in their ``main.py``: their names build a `VisionMamba`, others timm's models.

    `timm.create_model` takes their names too, but builds timm's model, whose ``forward`` and options are others.
    """
    if model_name in VIM_LONG_NAMES:
        return globals()[model_name](pretrained=pretrained, **options)
    return timm.create_model(model_name, pretrained=pretrained, **options)
