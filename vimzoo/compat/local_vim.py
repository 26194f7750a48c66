"""The LocalVim authors' constructors (hunto/LocalMamba: classification/lib/models/local_vim.py), returning our modules.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys. `official_state_dict` and `official_gradients` write state and
gradients back under their names. `vimzoo.models.LocalVim` documents each option; this module only maps the names.

Upstream bugs that are not imitated: columns of a map that is not square are put back in a wrong order; the decay rates
of a layer's directions share their storage until the model is moved to a GPU; a middle class token fails at other image
sizes; ``"max"`` pooling fails; an unknown argument is ignored.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vimzoo import layers
from vimzoo.models.local_vim import LOCAL_VIM_FACTS, LocalVim
from vimzoo.models.local_vim.dense import LocalVimDense

from .attributes import Alias, Fixed, OfficialModel, defaults_of, given_arguments, refuse_unknown
from .mamba_ssm.modules.mamba_simple import refuse_inference
from .official import accept_official_names, official_gradients, official_state_dict
from .vim_model import POOLS, WITHOUT_EFFECT, mixer_options

__all__ = [
    "Backbone_LocalVisionMamba",
    "MultiMamba",
    "VisionMamba",
    "local_vim_small",
    "local_vim_tiny",
    "local_vim_tiny_middle_cls_token",
    "local_vim_tiny_search",
    "local_vim_tiny_wo_search",
    "official_gradients",
    "official_state_dict",
]


class MultiMamba(layers.LocalMamba):
    """The mixer with the authors' arguments.

    ``use_fast_path``, ``layer_idx`` and ``bimamba_type`` change no result.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bimamba_type: str = "none",
        directions: Sequence[str] | None = None,
        token_size: tuple[int, int] = (14, 14),
        use_middle_cls_token: bool = False,
    ) -> None:
        super().__init__(
            d_model, directions, use_middle_cls_token, d_state, d_conv, expand,
            None if dt_rank == "auto" else int(dt_rank), conv_bias, bias, device, dtype,
            dt_min=dt_min, dt_max=dt_max, dt_init=dt_init, dt_scale=dt_scale, dt_floor=dt_init_floor,
        )  # fmt: skip
        self.token_size = token_size
        self.layer_idx = layer_idx
        accept_official_names(self)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, L, D)`` of a map of ``token_size`` -> the same."""
        refuse_inference(inference_params)
        return super().forward(hidden_states, self.token_size)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`VisionMamba`'s arguments -> `LocalVim`'s, without those of pooling and classifier."""
    if (kind := given["mamba_cls"]) not in (MultiMamba, layers.LocalMamba):
        raise ValueError(
            f"mamba_cls: expected vimzoo.compat.local_vim.MultiMamba, other mixers are not offered, got {kind!r}"
        )
    if cfg := given["initializer_cfg"]:
        raise ValueError(f"initializer_cfg: expected None, others are not offered, got {cfg!r}")
    if given["if_cls_token"] and not given["use_middle_cls_token"]:
        raise ValueError("use_middle_cls_token: expected True with a class token; others fail in theirs, too")
    return dict(
        img_size=given["img_size"], patch_size=given["patch_size"], depth=given["depth"], embed_dim=given["embed_dim"],
        in_chans=given["channels"], pos_drop_rate=given["drop_rate"], drop_path_rate=given["drop_path_rate"],
        norm="rms" if given["rms_norm"] else "layer", norm_eps=given["norm_epsilon"],
        residual_in_fp32=given["residual_in_fp32"], rope_size=given["pt_hw_seq_len"],
        pos_embed=given["if_abs_pos_embed"], rope=given["if_rope"], rope_residual=given["if_rope_residual"],
        cls_token="middle" if given["if_cls_token"] else "none", directions=given["directions"],
        device=given["device"], dtype=given["dtype"], **_mixer_options(given["ssm_cfg"]),
    )  # fmt: skip


def _mixer_options(ssm_cfg: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(ssm_cfg or {})
    state = {"d_state": given.pop("d_state")} if "d_state" in given else {}
    return {**state, **mixer_options(given, whole_model=True)}


class _Attributes(OfficialModel):
    layers = Alias("blocks")
    d_model, num_tokens = Alias("embed_dim"), Alias("num_prefix_tokens")
    if_rope_residual = Alias("rope_residual")
    if_cls_token, use_middle_cls_token = Fixed(), Fixed()
    if_abs_pos_embed, if_rope, final_pool_type = Fixed(), Fixed(), Fixed()
    fused_add_norm, residual_in_fp32 = Fixed(), Fixed()


class VisionMamba(_Attributes, LocalVim):
    """LocalVim with the authors' arguments, positions and defaults.

    ``fused_add_norm``, ``ft_seq_len`` and ``bimamba_type`` change no result. Neither do the arguments that timm's
    ``create_model`` passes on.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    norm_f = Alias("norm")

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        depth: int = 24,
        embed_dim: int = 192,
        channels: int = 3,
        num_classes: int = 1000,
        ssm_cfg: Mapping[str, Any] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_epsilon: float = 1e-5,
        rms_norm: bool = False,
        initializer_cfg: Mapping[str, Any] | None = None,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        ft_seq_len: int | None = None,
        pt_hw_seq_len: int = 14,
        final_pool_type: str = "none",
        if_abs_pos_embed: bool = False,
        if_rope: bool = False,
        if_rope_residual: bool = False,
        bimamba_type: str = "none",
        if_cls_token: bool = False,
        use_middle_cls_token: bool = False,
        directions: Sequence[Sequence[str] | None] | None = None,
        mamba_cls: type[nn.Module] = MultiMamba,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VisionMamba", kwargs, WITHOUT_EFFECT)
        if final_pool_type not in POOLS:
            raise ValueError(f"final_pool_type: expected one of {tuple(POOLS)}, got {final_pool_type!r}")
        pool = "token" if if_cls_token else POOLS[final_pool_type]
        super().__init__(num_classes=num_classes, global_pool=pool, **_options(given))
        self.arguments = given
        accept_official_names(self)

    def forward_features(self, x: Tensor, inference_params: Any = None) -> Tensor:  # type: ignore[override]
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


_DEFAULTS = defaults_of(VisionMamba.__init__)


class Backbone_LocalVisionMamba(_Attributes, LocalVimDense):
    """The authors' OpenMMLab backbone: a list of maps ``(B, D, h, w)``, or one map for one of ``out_indices``.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
        vimzoo.CheckpointError: ``pretrained_ckpt``, a classifier's file, does not fit.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (4, 9, 14, 19),
        pretrained_ckpt: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("Backbone_LocalVisionMamba", kwargs, (*_DEFAULTS, *WITHOUT_EFFECT))
        given = {**_DEFAULTS, **kwargs}
        super().__init__(out_indices, **_options(given))
        self.arguments = given
        accept_official_names(self)
        if pretrained_ckpt is not None:
            self.load_classifier(pretrained_ckpt)

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps."""
        maps = super().forward(x)
        return maps[0] if len(maps) == 1 else maps


def _registered(name: str) -> Callable[..., VisionMamba]:
    facts = LOCAL_VIM_FACTS[name]

    def build(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
        middle = facts.args.get("cls_token") == "middle"
        model = VisionMamba(
            patch_size=16, embed_dim=facts.args["embed_dim"], depth=20, rms_norm=True, residual_in_fp32=True,
            fused_add_norm=True, final_pool_type="mean", if_abs_pos_embed=True, if_rope=not middle,
            if_rope_residual=not middle, bimamba_type="v2", if_cls_token=middle, use_middle_cls_token=middle,
            directions=facts.args.get("directions"), **kwargs,
        )  # fmt: skip
        if pretrained:
            source = timm.create_model(
                facts.tagged_name, pretrained=True, num_classes=model.num_classes, in_chans=model.in_chans,
                img_size=model.patch_embed.img_size,
            )  # fmt: skip
            model.load_state_dict(source.state_dict())
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"`{facts.tagged_name}` under the authors' name."
    return build


local_vim_tiny = _registered("local_vim_tiny")
local_vim_tiny_middle_cls_token = _registered("local_vim_tiny_middle_cls_token")
local_vim_tiny_wo_search = _registered("local_vim_tiny_wo_search")
local_vim_tiny_search = _registered("local_vim_tiny_search")
local_vim_small = _registered("local_vim_small")
