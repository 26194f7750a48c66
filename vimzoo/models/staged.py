"""What models made of stages of falling resolution share, whatever their stems, blocks and heads are."""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from timm.layers import to_2tuple
from timm.models import checkpoint_seq
from torch import Tensor, nn

from vimzoo.layers.plain import apply_norm
from vimzoo.layers.vss_block import infer_blocks

from ._timm import update_model_input_size
from .map_model import MapModel
from .weights.contents import bare
from .weights.loading import load_into

__all__ = ["Stage", "StagedModel", "checked_widths", "checkpoint_filter_fn"]


class Stage(nn.Module):
    """Blocks of one resolution, after the downsampling to it.

    Args:
        downsample: What comes first, if anything.
        blocks: The blocks.
        norm: What comes last, if anything.
    """

    def __init__(
        self, downsample: nn.Module, blocks: Sequence[nn.Module], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Identity() if norm is None else norm
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H', W', D)``."""
        x = self.downsample(x)
        if torch.jit.is_scripting():
            return self.norm(self.blocks(x))
        y = infer_blocks(self.blocks, x)
        if y is None:
            y = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return apply_norm(self.norm, y)


class StagedModel(MapModel):
    """A `MapModel` whose parts are instances of `Stage` in ``stages``, and which has a ``patch_embed``.

    A family defines what `MapModel` asks for, except ``forward_features``, and a ``dialect``. Images of any size work.
    """

    @torch.jit.ignore
    def load_pretrained(
        self, checkpoint_path: str | os.PathLike[str], prefix: str = "", *, use_ema: bool | None = None
    ) -> None:
        """Load a file of ours or the authors', as `vimzoo.models.weights.loading.load_into` does, with its errors."""
        load_into(self, checkpoint_path, self.checkpoint_filter(), use_ema=use_ema, prefix=prefix)

    @torch.jit.ignore
    def checkpoint_filter(self) -> Any:
        """The function that brings a checkpoint under our names."""
        return checkpoint_filter_fn

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth, for layer-wise learning rates."""
        fine = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", (9999,)),
            (r"^norm", (99999,)),
        ]
        return dict(stem=r"^patch_embed|pos_embed", blocks=r"^stages\.(\d+)" if coarse else fine)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:  # type: ignore[union-attr]
            stage.grad_checkpointing = enable

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | None = None
    ) -> None:
        """Set the image size that the model states; any size works unchanged.

        Raises:
            ValueError: ``patch_size`` is another than the model's.
        """
        own = self._infos()[0]["reduction"]
        if patch_size not in (None, own):
            raise ValueError(f"patch_size: expected {own}, got {patch_size}")
        if img_size is not None:
            update_model_input_size(self, to_2tuple(img_size))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> the last map after its norm, ``(B, h, w, D)``."""
        x = self.stages(self._embed(x))  # type: ignore[operator]
        return self.norm(x) if torch.jit.is_scripting() else apply_norm(self.norm, x)


def checked_widths(dims: int | Sequence[int], depths: Sequence[int]) -> list[int]:
    """Channels per stage; one number doubles from stage to stage.

    Raises:
        ValueError: ``depths`` is empty, a number is not positive, or there are not as many of both.
    """
    if not depths or min(depths) < 1:
        raise ValueError(f"depths: expected a positive number of blocks per stage, got {tuple(depths)}")
    one = isinstance(dims, int | Integral)
    widths = [int(dims) * 2**i for i in range(len(depths))] if one else list(dims)  # type: ignore[call-overload, arg-type]
    if len(widths) != len(depths) or min(widths) < 1:
        raise ValueError(f"dims: expected {len(depths)} positive numbers, or one, got {dims}")
    return widths


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', under our names.

    Args:
        state_dict: Tensors by name, in a wrapper such as ``{"model": ...}`` or not.
        model: The model they are for; checkpoints that fit it already are returned unchanged.
    """
    state = dict(bare(state_dict))
    return model.dialect.to_native(state, model) if model.dialect.is_official(state) else state
