"""VideoMamba for clips: Vim's blocks over the tokens of all frames; the package registers its variants."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vimzoo.layers.tubelet_embed import TubeletEmbed

from ..tokens import cls_tokens, insert_cls, patch_tokens, resize_pos_embed
from ..vim.model import Vim
from ..vim.names import without_tables
from ..weights.dialect import Dialect
from .names import TEMPORAL, checkpoint_filter_fn, is_official, resize_temporal, slots

__all__ = ["VIDEOMAMBA", "VideoMamba", "checkpoint_filter_fn"]


class VideoMamba(Vim):
    """VideoMamba with timm's model contract, for clips ``(B, C, T, H, W)``.

    The sequence holds one class token and then the patches frame by frame, each frame row by row. A patch has the
    position embedding of its place and the temporal embedding of its tubelet.

    Args:
        num_frames: Frames T of a clip.
        tubelet_size: Frames that a patch spans (``kernel_size``).
        cls_token, divide_out, init: As in `Vim`, with the authors' values as defaults.
        **options: As `Vim` takes them.

    Raises:
        ValueError: an option has no such value, a size is not positive, or a clip is shorter than a tubelet.
    """

    _filter_fn = staticmethod(checkpoint_filter_fn)
    if TYPE_CHECKING:  # TorchScript takes annotations of a class for attributes to compile
        patch_embed: TubeletEmbed

    def __init__(
        self,
        num_frames: int = 8,
        tubelet_size: int = 1,
        *,
        cls_token: str = "head",
        divide_out: bool = False,
        init: str = "equal_steps",
        **options: Any,
    ) -> None:
        embed = partial(TubeletEmbed, num_frames=num_frames, tubelet_size=tubelet_size)
        super().__init__(cls_token=cls_token, divide_out=divide_out, init=init, embed_layer=embed, **options)
        dd: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        frames = self.patch_embed.grid_frames
        self.temporal_pos_embed = nn.Parameter(torch.zeros(1, frames, self.embed_dim, **dd))

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.patch_embed.num_frames

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """As `Vim.init_weights`; the temporal embedding starts at 0."""
        super().init_weights(needs_reset)
        if TEMPORAL in self._parameters:  # not yet there while the model is built
            nn.init.zeros_(self.temporal_pos_embed)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """As `Vim.no_weight_decay`, and the temporal embedding."""
        return super().no_weight_decay() | {TEMPORAL}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """As `Vim.group_matcher`."""
        return {**super().group_matcher(coarse), "stem": rf"^cls_token|pos_embed|patch_embed|{TEMPORAL}"}

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        num_frames: int | None = None,
    ) -> None:
        """Changes the size of frames and patches, and the number of frames, resizing all embeddings.

        Raises:
            ValueError: there are fewer frames than a tubelet has.
        """
        super().set_input_size(img_size, patch_size)
        if num_frames is not None:
            self.patch_embed.set_frames(num_frames)
            with torch.no_grad():
                resized = resize_temporal(self.temporal_pos_embed, self.patch_embed.grid_frames)
            needed = self.temporal_pos_embed.requires_grad
            self.temporal_pos_embed = nn.Parameter(resized.detach(), requires_grad=needed)

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Clips -> the sequence, and the grid of its patches, the rows of all frames below each other."""
        patches = self.patch_embed(x)
        grid = self.patch_embed.dynamic_feat_size((x.shape[3], x.shape[4]))
        tokens = self._placed(patches, grid, self.temporal_pos_embed)
        return self.pos_drop(tokens), (self.patch_embed.grid_frames * grid[0], grid[1])

    def _placed(self, x: Tensor, grid: tuple[int, int], temporal: Tensor | None) -> Tensor:
        """Patches ``(B, T', rows * columns, D)`` -> the sequence, with embeddings and class tokens."""
        cls_token: Tensor | None = self.cls_token
        pos_embed: Tensor | None = self.pos_embed
        if pos_embed is not None:
            if self.dynamic_img_size:
                pos_embed = resize_pos_embed(pos_embed, self.patch_embed.grid_size, grid, self.cls_position)
            x = x + patch_tokens(pos_embed, self.cls_position).unsqueeze(1)
            if cls_token is not None:
                cls_token = cls_token + cls_tokens(pos_embed, self.cls_position)
        if temporal is not None:
            x = x + temporal.unsqueeze(2)
        x = x.flatten(1, 2)
        return x if cls_token is None else insert_cls(x, cls_token, self.cls_position)

    def forward_intermediates(  # type: ignore[override]
        self, x: Tensor, indices: int | list[int] | None = None, **options: Any
    ) -> Any:
        """As `Vim.forward_intermediates`; maps have an axis of tubelets.

        Args:
            x: Clips ``(B, C, T, H, W)``.
            indices, **options: As there. With ``output_fmt="NCHW"`` maps are ``(B, D, T', H', W')``, with ``"NHWC"``
                ``(B, T', H', W', D)``.
        """
        result = super().forward_intermediates(x, indices, **options)
        axis = {"NCHW": 2, "NHWC": 1}.get(options.get("output_fmt", "NCHW"))
        if axis is None:
            return result

        def in_frames(feature: Any) -> Any:
            if isinstance(feature, tuple):  # with the class tokens
                return in_frames(feature[0]), feature[1]
            return feature.unflatten(axis, (self.patch_embed.grid_frames, -1))

        if isinstance(result, Mapping):
            maps = [in_frames(feature) for feature in result["image_intermediates"]]
            return {**result, "image_intermediates": maps}
        if isinstance(result, list):
            return [in_frames(feature) for feature in result]
        return result[0], [in_frames(feature) for feature in result[1]]


VIDEOMAMBA = Dialect((VideoMamba,), slots, is_official, without_tables)
VideoMamba.dialect = VIDEOMAMBA
