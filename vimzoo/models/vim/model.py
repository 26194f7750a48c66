"""Vision Mamba (Vim): a plain sequence of bidirectional Mamba blocks; the package registers its variants."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from timm.layers import DropPath, calculate_drop_path_rates, get_device_dtype, trunc_normal_
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo.layers import Add, AddNorm, BiMambaBlock, PatchEmbed
from vimzoo.layers.bimamba import infer_blocks, prepare_blocks
from vimzoo.layers.checks import check_choice, check_rates, check_sizes, per_block
from vimzoo.layers.linear import passes_on
from vimzoo.ops.mixers import run
from vimzoo.ops.runtime.library import is_inference

from .._timm import feature_take_indices, update_model_input_size
from ..initial import reset_layers
from ..threads import SmallOnOneThread
from ..tokens import checked_pool, cls_count, insert_cls, patch_tokens, pooled, resize_pos_embed, split_tokens
from ..weights.grids import GridModel
from ..weights.loading import load_into
from .names import VIM, checkpoint_filter_fn

__all__ = ["Vim", "checkpoint_filter_fn"]


class Vim(GridModel, SmallOnOneThread):
    """Vision Mamba with timm's model contract.

    The authors' option names are given in parentheses; `vimzoo.compat.vim.VisionMamba` takes those.

    Args:
        img_size: Height and width of the images.
        patch_size: Size of a patch.
        stride: Step between patches, by default ``patch_size``.
        in_chans: Channels of the images (``channels``).
        num_classes: Classes; 0 for no classifier.
        global_pool: What the classifier sees (``final_pool_type``): ``"token"`` the class token, of two
            their mean; ``"last"`` the last token (``none``); ``"avg"`` the patches' mean (``mean``);
            ``"max"`` the largest logit of all patches, taken after the classifier (``max``); ``""`` every
            token (``all``). By default ``"token"`` with a class token and ``"avg"`` without.
        embed_dim, depth: Width and number of blocks.
        d_state, d_conv, expand, dt_rank, conv_bias, proj_bias: As in `BiMamba` (``ssm_cfg``).
        bimamba: ``"v2"``, ``"v1"`` or ``"none"``, as in `BiMamba` (``bimamba_type``).
        divide_out: Halve the sum of v2's two directions (``if_divide_out``).
        cls_token: ``"none"``, ``"head"``, ``"middle"`` or ``"double"`` (``if_cls_token``,
            ``use_middle_cls_token``, ``use_double_cls_token``).
        pos_embed: Learned position embedding (``if_abs_pos_embed``).
        layer_scale: Initial value of a per-channel factor on each mixer's output (``init_layer_scale``).
        norm, norm_eps: ``"rms"`` or ``"layer"`` (``rms_norm``).
        residual_in_fp32: Keep the residual stream in float32.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding (``drop_rate``).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        step_sizes: Initial step sizes, as `BiMamba` takes them (``dt_min``, ``dt_max``, ...).
        init: ``"vim"``, or ``"equal_steps"``: all linear maps, those of the scans included, from a normal distribution
            of deviation 0.02, and all step sizes 0.69; see `init_weights`.
        dynamic_img_size: Take any image size; position embeddings are resized on the fly.
        dynamic_img_pad: Pad images whose sides are not a multiple of the stride; without it their last pixels are
            dropped.
        mixers: Arguments of mixers of another class, one mapping per block, instead of ``bimamba``, ``divide_out`` and
            ``layer_scale``.
        embed_layer: Class of the patch embedding.
        distill_dim: Width of a teacher's tokens (``teacher_embed_dim``). ``distill_head``, a norm and a linear map,
            takes this model's tokens to it; after ``set_distilled_training()`` a call in training mode returns these,
            too.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    dynamic_img_size: Final[bool]
    dialect = VIM
    _filter_fn = staticmethod(checkpoint_filter_fn)
    block_class: type[BiMambaBlock] = BiMambaBlock
    _keep_in_fp32_modules_strict = (
        "A_log",
    )  # asked for by transformers when it loads in bfloat16 or float16

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        stride: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | None = None,
        conv_bias: bool = True,
        proj_bias: bool = False,
        bimamba: str = "v2",
        divide_out: bool = True,
        cls_token: str = "middle",
        pos_embed: bool = True,
        layer_scale: float | None = None,
        norm: str = "rms",
        norm_eps: float = 1e-5,
        residual_in_fp32: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        step_sizes: Mapping[str, Any] | None = None,
        init: str = "vim",
        dynamic_img_size: bool = False,
        dynamic_img_pad: bool = False,
        mixers: Sequence[Mapping[str, Any]] | None = None,
        embed_layer: Callable[..., PatchEmbed] = PatchEmbed,
        distill_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if num_classes < 0:
            raise ValueError(f"num_classes: expected 0 (no classifier) or more, got {num_classes}")
        check_sizes(depth=depth)
        check_choice(("vim", "equal_steps"), init=init)
        check_rates(drop_rate=drop_rate, pos_drop_rate=pos_drop_rate, drop_path_rate=drop_path_rate)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.cls_position = cls_token
        self.num_prefix_tokens = cls_count(cls_token)
        self.global_pool = checked_pool(global_pool, self.cls_position)
        self.dynamic_img_size = dynamic_img_size
        self.init = init
        self.grad_checkpointing = False

        self.patch_embed = embed_layer(
            img_size, patch_size, stride, in_chans, embed_dim,
            strict_img_size=not dynamic_img_size, dynamic_img_pad=dynamic_img_pad, **dd,
        )  # fmt: skip
        prefix, length = self.num_prefix_tokens, self.patch_embed.num_patches + self.num_prefix_tokens
        self.cls_token = nn.Parameter(torch.empty(1, prefix, embed_dim, **dd)) if prefix else None
        self.pos_embed = nn.Parameter(torch.empty(1, length, embed_dim, **dd)) if pos_embed else None
        self.pos_drop = nn.Dropout(pos_drop_rate)

        mixer_args = dict(
            d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank, conv_bias=conv_bias, proj_bias=proj_bias,
            **(step_sizes or {}),
        )  # fmt: skip
        if mixers is None:
            check_choice(("none", "v1", "v2"), bimamba=bimamba)
            mixer_args.update(bimamba=bimamba, divide_out=divide_out, layer_scale=layer_scale)
        # A block applies stochastic depth to its input, the output of the block before, hence the offset of one.
        rates = [0.0, *calculate_drop_path_rates(drop_path_rate, depth)]
        own = per_block("mixers", mixers, depth)
        self.blocks = nn.ModuleList(
            self.block_class(
                embed_dim, norm, norm_eps, residual_in_fp32, rates[i], {**mixer_args, **own[i]}, **dd
            )
            for i in range(depth)
        )
        self.drop_path = DropPath(rates[depth]) if rates[depth] > 0.0 else nn.Identity()
        self.norm = AddNorm(embed_dim, norm, norm_eps, residual_in_fp32, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.distilled_training = False
        self.distill_head: nn.Module | None = None
        if distill_dim is not None:
            check_sizes(distill_dim=distill_dim)
            kind = nn.RMSNorm if norm == "rms" else nn.LayerNorm
            self.distill_head = nn.Sequential(
                kind(embed_dim, eps=norm_eps, **dd), nn.Linear(embed_dim, distill_dim, **dd)
            )
        reduction = self.patch_embed.feat_ratio()
        self.feature_info = [
            dict(module=f"blocks.{i}", num_chs=embed_dim, reduction=reduction) for i in range(depth)
        ]
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """The authors' initialisation.

        ``"vim"`` leaves the backward direction's step bias at 0, a first step of softplus(0) = 0.69 where the
        forward one starts between 0.001 and 0.1: Vim's code marks only the forward bias as initialised.
        ``"equal_steps"`` is the initialisation of LocalMamba's and VideoMamba's code, which resets the step biases of
        all directions. Both are kept, for their results.

        Args:
            needs_reset: Reset every layer first (after ``to_empty``); the constructor's have just done so.
        """
        if needs_reset:
            reset_layers(self)
        equal_steps = self.init == "equal_steps"
        if equal_steps:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        else:
            self.patch_embed.init_weights()
        if self.pos_embed is not None:
            trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token) if equal_steps else trunc_normal_(self.cls_token, std=0.02)
        for block in self.blocks:
            mixer: Any = block.mixer
            for linear in (mixer.in_proj, mixer.out_proj):
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            if equal_steps:
                trunc_normal_(mixer.ssm.x_proj, std=0.02)
                trunc_normal_(mixer.ssm.dt_proj, std=0.02)
            nn.init.kaiming_uniform_(mixer.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                mixer.out_proj.weight /= math.sqrt(len(self.blocks))
                mixer.ssm.dt_bias[0 if equal_steps else 1 :] = 0.0
        if not equal_steps:
            self._init_head()

    def _init_head(self) -> None:
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @torch.jit.ignore
    def load_pretrained(
        self,
        checkpoint_path: str | os.PathLike[str],
        prefix: str = "",
        *,
        use_ema: bool | None = None,
        official_pos_embed: bool = False,
        pos_embed_grid: tuple[int, int] | None = None,
    ) -> None:
        """Load a file of ours or the authors'.

        Args:
            checkpoint_path, prefix, use_ema: As `vimzoo.models.weights.loading.load_into` takes them, with its
                errors.
            official_pos_embed: Resize position embeddings as the authors' fine-tuning does, see
                `resize_pos_embed`.
            pos_embed_grid: As `vimzoo.load_checkpoint` takes it.
        """
        filter_fn = partial(
            self._filter_fn, official_pos_embed=official_pos_embed, pos_embed_grid=pos_embed_grid
        )
        load_into(self, checkpoint_path, filter_fn, use_ema=use_ema, prefix=prefix)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond biases and norms.

        As in official training ``A_log`` has weight decay: the authors mark it as exempt, but nothing reads the
        mark. Per-direction vectors are matrices here, so they are named.
        """
        return {"pos_embed", "cls_token", "*.ssm.D", "*.ssm.dt_bias"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth, for layer-wise learning rates."""
        return dict(
            stem=r"^cls_token|pos_embed|patch_embed", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of ``num_classes`` (0 for none); ``global_pool=None`` keeps the pooling."""
        if num_classes < 0:
            raise ValueError(f"num_classes: expected 0 (no classifier) or more, got {num_classes}")
        if global_pool is not None:
            self.global_pool = checked_pool(global_pool, self.cls_position)
        self.num_classes = num_classes
        dd = get_device_dtype(self)
        self.head = nn.Linear(self.embed_dim, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self._init_head()
        self.head.train(self.training)

    def pos_embed_layout(self) -> tuple[tuple[int, int], str, int]:
        """As `GridModel` asks for it."""
        return self.patch_embed.grid_size, self.cls_position, self.num_prefix_tokens

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Changes the image size, and the patch size, resizing position embeddings and the patch kernel."""
        old_size = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size, patch_size)
        if self.pos_embed is not None:
            with torch.no_grad():
                resized = resize_pos_embed(
                    self.pos_embed, old_size, self.patch_embed.grid_size, self.cls_position
                )
            self.pos_embed = nn.Parameter(resized.detach(), requires_grad=self.pos_embed.requires_grad)
        update_model_input_size(self, self.patch_embed.img_size, patch_size=patch_size)

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images -> the sequence with class tokens and positions, and the grid of its patches."""
        image = x
        x = self.patch_embed(image)
        grid = self.patch_embed.dynamic_feat_size((image.shape[2], image.shape[3]))
        cls_token = self.cls_token
        pos_embed: Tensor | None = self.pos_embed
        x = x.contiguous() if cls_token is None else insert_cls(x, cls_token, self.cls_position)
        if pos_embed is not None:
            if self.dynamic_img_size:
                pos_embed = resize_pos_embed(pos_embed, self.patch_embed.grid_size, grid, self.cls_position)
            x = x + pos_embed
        return self.pos_drop(x), grid

    def _forward_blocks(
        self, x: Tensor, grid: tuple[int, int], take: list[int], count: int
    ) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
        """Runs the first ``count`` blocks on tokens of ``grid``, which only subclasses need.

        Returns:
            The last block's output, the residual stream that it was given, and both for each block in ``take``.
        """
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript skips only a block of its own
            if not self.grad_checkpointing and is_inference(x):
                return infer_blocks(list(self.blocks)[:count], x, take)
        residual: Tensor | None = None
        taps: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            if i < count:
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x, residual = checkpoint(block, x, residual)
                else:
                    x, residual = block(x, residual)
                if i in take and residual is not None:
                    taps.append((x, residual))
        return x, residual, taps

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> all tokens after the last norm, ``(B, L, D)``, in sequence order."""
        x, grid = self._embed(x)
        if not torch.jit.is_scripting():
            y = self._in_a_row(x)
            if y is not None:
                return y
        x, residual, _ = self._forward_blocks(x, grid, [], len(self.blocks))
        return self.norm(self.drop_path(x), residual)[0]

    @torch.jit.ignore
    def _in_a_row(self, x: Tensor) -> Tensor | None:
        """All blocks and the last norm in inference on the CPU; ``None`` where they have to be called."""
        own = type(self)._forward_blocks is Vim._forward_blocks and passes_on(self.drop_path)
        ready = (
            prepare_blocks([*self.blocks, self.norm], x, None) if own and not self.grad_checkpointing else []
        )
        return run(ready, x)[0] if ready else None

    def pool(self, x: Tensor) -> Tensor:
        """Tokens ``(B, L, D)`` -> ``(B, D)``; all of them with ``global_pool=""``."""
        return pooled(x, self.global_pool, self.cls_position)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens ``(B, L, D)`` -> logits ``(B, classes)``, or with ``pre_logits`` the pooled tokens.

        Without pooling the classifier is applied to every token, ``(B, L, classes)``.
        """
        if self.global_pool == "max" and not pre_logits:
            # the largest logit, not the logit of the largest features
            return self.head(self.head_drop(patch_tokens(x, self.cls_position))).amax(1)
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    @torch.jit.ignore
    def set_distilled_training(self, enable: bool = True) -> None:
        """With ``distill_dim``, return the tokens of the teacher's width in training mode, too; as in timm."""
        self.distilled_training = enable

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> logits ``(B, classes)``; see ``set_distilled_training``."""
        x = self.forward_features(x)
        y = self.forward_head(x)
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript skips only a block of its own
            if self.training and self.distilled_training and self.distill_head is not None:
                return y, self.distill_head(x)  # type: ignore[return-value]
        return y

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features after chosen blocks: the residual stream with the block's output added.

        Args:
            x: Images ``(B, C, H, W)``.
            indices: Blocks, negative from the end; a number for the last so many; ``None`` for all.
            return_prefix_tokens: Pair each feature with its class tokens ``(B, T, D)``.
            norm: Apply the final norm to each.
            stop_early: Run no block after the last chosen one.
            output_fmt: ``"NCHW"`` maps, ``"NHWC"`` maps or ``"NLC"`` patch tokens.
            intermediates_only: Return only the list.
            output_dict: Return a dict with ``image_features``, ``image_intermediates`` and, if asked for,
                ``image_intermediates_prefix``.

        Returns:
            ``(forward_features(x), list)``, the list, or the dict.
        """
        check_choice(("NCHW", "NHWC", "NLC"), output_fmt=output_fmt)
        take, last = feature_take_indices(len(self.blocks), indices)
        x, grid = self._embed(x)
        count = last + 1 if stop_early else len(self.blocks)
        x, residual, taps = self._forward_blocks(x, grid, take, count)
        intermediates: list[Tensor] = []
        prefixes: list[Tensor] = []
        for out, stream in taps:
            tokens = self.norm(out, stream)[0] if norm else (stream + out).to(out.dtype)
            patches, prefix = split_tokens(tokens, self.cls_position, grid, output_fmt)
            intermediates.append(patches)
            prefixes.append(prefix)
        if not torch.jit.is_scripting() and output_dict:
            result: dict[str, Any] = {"image_intermediates": intermediates}
            if return_prefix_tokens and self.num_prefix_tokens:
                result["image_intermediates_prefix"] = prefixes
            if not intermediates_only:
                result["image_features"] = self.norm(self.drop_path(x), residual)[0]
            return result  # type: ignore[return-value]
        if not torch.jit.is_scripting() and return_prefix_tokens and self.num_prefix_tokens:
            intermediates = list(zip(intermediates, prefixes, strict=True))  # type: ignore[arg-type]
        if intermediates_only:
            return intermediates
        return self.norm(self.drop_path(x), residual)[0], intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove layers that the chosen features do not need; returns the features' indices from the first block."""
        take, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = Add()  # type: ignore[assignment]
        if prune_head:
            self.reset_classifier(0, "")
        return take
