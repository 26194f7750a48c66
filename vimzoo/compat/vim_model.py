"""The Vim authors' classifier: our model, with their arguments and attributes."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vimzoo.models.tokens import cls_tokens, insert_cls
from vimzoo.models.vim.ablations import VimAblation

from .attributes import Alias, Fixed, OfficialModel, given_arguments, refuse_unknown
from .mamba_ssm.modules.mamba_simple import refuse_inference
from .official import accept_official_names

POOLS = {"none": "last", "mean": "avg", "max": "max", "all": ""}
WITHOUT_EFFECT = ("cache_dir", "drop_block_rate", "pretrained_cfg", "pretrained_cfg_overlay")
"""What timm's ``create_model`` and their ``main.py`` pass on, and their ``**kwargs`` swallow."""
SECOND_SPELLING = "if_devide_out"
"""Of ``if_divide_out``: the base model's registration and older forks have it."""
RESIDUAL_INIT = ("initializer_range", "rescale_prenorm_residual", "n_residuals_per_layer")
"""What ``initializer_cfg`` may hold. The first is for embedding tables, which Vim does not have."""
_MIXER = dict(d_conv="d_conv", expand="expand", conv_bias="conv_bias", bias="proj_bias")
_STEP_SIZES = dict(
    dt_min="dt_min", dt_max="dt_max", dt_init="dt_init", dt_scale="dt_scale", dt_init_floor="dt_floor"
)


def mixer_options(ssm_cfg: Mapping[str, Any] | None, whole_model: bool = False) -> dict[str, Any]:
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


def model_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`VisionMamba`'s arguments -> `Vim`'s, without those of class tokens, pooling and classifier."""
    return dict(
        img_size=given["img_size"], patch_size=given["patch_size"], stride=given["stride"], depth=given["depth"],
        embed_dim=given["embed_dim"], d_state=given["d_state"], in_chans=given["channels"],
        pos_drop_rate=given["drop_rate"], drop_path_rate=given["drop_path_rate"], norm_eps=given["norm_epsilon"],
        norm="rms" if given["rms_norm"] else "layer", residual_in_fp32=given["residual_in_fp32"],
        rope_size=given["pt_hw_seq_len"], paired=given["if_bidirectional"], pos_embed=given["if_abs_pos_embed"],
        rope=given["if_rope"], rope_residual=given["if_rope_residual"],
        flip_rate=max(given["flip_img_sequences_ratio"], 0.0),
        bimamba="v1" if given["if_bimamba"] else given["bimamba_type"],
        divide_out=given["if_divide_out"] and given.get(SECOND_SPELLING, True),
        layer_scale=given["init_layer_scale"], device=given["device"], dtype=given["dtype"],
        **mixer_options(given["ssm_cfg"], whole_model=True),
    )  # fmt: skip


class VisionMamba(OfficialModel, VimAblation):
    """Vim with the authors' arguments, positions and defaults.

    ``fused_add_norm`` and ``ft_seq_len`` change no result: addition and norm are always fused, and theirs computes the
    grid from ``img_size``. Neither do the arguments that timm's ``create_model`` passes on.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    layers = Alias("blocks")
    norm_f = Alias("norm")
    if_bidirectional = Alias("paired")
    if_rope_residual = Alias("rope_residual")
    flip_img_sequences_ratio = Alias("flip_rate")
    d_model, num_tokens = Alias("embed_dim"), Alias("num_prefix_tokens")
    if_cls_token, use_double_cls_token, use_middle_cls_token = Fixed(), Fixed(), Fixed()
    if_abs_pos_embed, if_rope, final_pool_type = Fixed(), Fixed(), Fixed()
    fused_add_norm, residual_in_fp32 = Fixed(), Fixed()

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
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_epsilon: float = 1e-5,
        rms_norm: bool = True,
        initializer_cfg: Mapping[str, Any] | None = None,
        fused_add_norm: bool = True,
        residual_in_fp32: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        ft_seq_len: int | None = None,
        pt_hw_seq_len: int = 14,
        if_bidirectional: bool = False,
        final_pool_type: str = "none",
        if_abs_pos_embed: bool = True,
        if_rope: bool = False,
        if_rope_residual: bool = False,
        flip_img_sequences_ratio: float = -1.0,
        if_bimamba: bool = False,
        bimamba_type: str = "v2",
        if_cls_token: bool = True,
        if_divide_out: bool = True,
        init_layer_scale: float | None = None,
        use_double_cls_token: bool = False,
        use_middle_cls_token: bool = True,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VisionMamba", kwargs, (*WITHOUT_EFFECT, SECOND_SPELLING))
        if final_pool_type not in POOLS:
            raise ValueError(f"final_pool_type: expected one of {tuple(POOLS)}, got {final_pool_type!r}")
        refuse_unknown("VisionMamba: initializer_cfg", initializer_cfg or {}, RESIDUAL_INIT)
        place = "double" if use_double_cls_token else "middle" if use_middle_cls_token else "head"
        super().__init__(
            num_classes=num_classes,
            cls_token=place if if_cls_token else "none",
            global_pool="token" if if_cls_token else POOLS[final_pool_type],
            **model_options(given),
        )
        self.arguments = given
        self.initializer_cfg = dict(initializer_cfg or {})
        self._rescale_outputs()
        accept_official_names(self)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """As `Vim.init_weights`, with the output projections that ``initializer_cfg`` asks for."""
        super().init_weights(needs_reset)
        self._rescale_outputs()

    def _rescale_outputs(self) -> None:
        """Bring the output projections from 1 / sqrt(depth) to the scale that ``initializer_cfg`` asks for."""
        cfg = self.__dict__.get("initializer_cfg", {})  # not yet there while the model is built
        rescaled = cfg.get("rescale_prenorm_residual", True)
        wanted = 1 / math.sqrt(cfg.get("n_residuals_per_layer", 1) * len(self.blocks)) if rescaled else 1.0
        factor = wanted * math.sqrt(len(self.blocks))
        if factor != 1.0:
            with torch.no_grad():
                for block in self.blocks:
                    block.mixer.out_proj.weight *= factor  # type: ignore[union-attr, operator]

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Refused: raises ``NotImplementedError``."""
        refuse_inference("allocate_inference_cache")

    def forward_features(
        self,
        x: Tensor,
        inference_params: Any = None,
        if_random_cls_token_position: bool = False,
        if_random_token_rank: bool = False,
    ) -> Tensor:
        """Images -> pooled tokens (all for ``"max"``) as theirs does; timm's contract has all tokens here.

        Args:
            x: Images ``(B, C, H, W)``.
            inference_params: Must be ``None``.
            if_random_cls_token_position: Put a single class token that is not a middle one anywhere among the patches.
                As in theirs, other class tokens stay where they are.
            if_random_token_rank: Shuffle the sequence, in one order for the whole batch.

        Raises:
            ValueError: tokens are to be shuffled without a class token, which fails in theirs too.
        """
        refuse_inference(inference_params)
        if self._is_random(if_random_cls_token_position, if_random_token_rank):
            return self._forward_random(x, if_random_cls_token_position, if_random_token_rank)
        tokens = super().forward_features(x)
        return tokens if self.global_pool == "max" else self.pool(tokens)

    def _is_random(self, random_place: bool, shuffle: bool) -> bool:
        """Whether these options change the sequence."""
        if shuffle and self.cls_token is None:
            raise ValueError("if_random_token_rank: expected a model with a class token")
        return shuffle or (random_place and self.cls_position == "head")

    def _forward_random(self, images: Tensor, random_place: bool, shuffle: bool) -> Tensor:
        """The class tokens' mean ``(B, D)``, wherever they were put; torch's generator draws."""
        assert self.cls_token is not None
        patches = self.patch_embed(images)
        count = patches.shape[1]
        if random_place and self.cls_position == "head":
            place = int(torch.randint(count + 1, ()))
            cls_token = self.cls_token.expand(patches.shape[0], -1, -1)
            tokens = torch.cat([patches[:, :place], cls_token, patches[:, place:]], dim=1)
            places = torch.tensor([place])
        else:
            tokens = insert_cls(patches, self.cls_token, self.cls_position)
            numbers = torch.arange(tokens.shape[1])[None, :, None]
            places = cls_tokens(numbers, self.cls_position).flatten()
        tokens = self.pos_drop(tokens if self.pos_embed is None else tokens + self.pos_embed)
        if shuffle:
            order = torch.randperm(tokens.shape[1])
            tokens, places = tokens[:, order], order.argsort()[places]
        x, residual, _ = self._forward_blocks(tokens, self.patch_embed.grid_size, [], len(self.blocks))
        return self.norm(self.drop_path(x), residual)[0][:, places].mean(1)

    def forward(
        self,
        x: Tensor,
        return_features: bool = False,
        inference_params: Any = None,
        if_random_cls_token_position: bool = False,
        if_random_token_rank: bool = False,
    ) -> Tensor:
        """Images ``(B, C, H, W)`` -> logits, or with ``return_features`` ``forward_features``."""
        randomly = (if_random_cls_token_position, if_random_token_rank)
        if return_features:
            return self.forward_features(x, inference_params, *randomly)
        refuse_inference(inference_params)
        if self._is_random(*randomly):
            return self.head(self.head_drop(self._forward_random(x, *randomly)))
        return self.forward_head(super().forward_features(x))
