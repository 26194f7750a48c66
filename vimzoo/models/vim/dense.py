"""Vim as the backbone of a segmenter or detector, as the authors' mmseg and detectron2 code uses it."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..tokens import patch_tokens
from ..weights.contents import Tensors
from ..weights.loading import load_into
from .ablations import VimAblation
from .names import VIM, checkpoint_filter_fn


class VimDense(VimAblation):
    """Feature maps of chosen blocks, and a simple pyramid made of them.

    For new work `timm.create_model(name, features_only=True)` is the shorter way; this class exists so that
    models trained with the authors' dense code keep their meaning. There is no class token and no classifier.

    Args:
        out_indices: Blocks whose features are returned.
        features: ``"hidden"``: a block's output without the residual stream (the authors' tiny
            configuration); ``"stream"``: the stream after a block.
        last: What is returned for the last block with ``features="stream"``: ``"none"`` its output,
            ``"add"`` the stream with it, ``"add & norm"`` that, normalised.
        pyramid: Bring four maps to 4x, 2x, 1x and 1/2 of the grid, 8 pixel patches to 2x, 1x, 1/2 and 1/4. A
            single map serves as all four.
        **kwargs: As `VimAblation` takes them; ``flip_rate`` has no effect.

    Raises:
        ValueError: an option has no such value, or the pyramid does not fit the patch size or number of maps.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (5, 11, 17, 23),
        features: str = "hidden",
        last: str = "none",
        pyramid: bool = True,
        **kwargs: Any,
    ) -> None:
        if features not in ("hidden", "stream"):
            raise ValueError(f"features: expected 'hidden' or 'stream', got {features!r}")
        if last not in ("none", "add", "add & norm"):
            raise ValueError(f"last: expected 'none', 'add' or 'add & norm', got {last!r}")
        super().__init__(num_classes=0, cls_token="none", global_pool="", **kwargs)
        self.flip_rate = 0.0
        self.out_indices = tuple(out_indices)
        self.features = features
        self.last = last
        self.pyramid = pyramid
        if pyramid:
            if len(self.out_indices) not in (1, 4):
                raise ValueError(f"out_indices: a pyramid takes one or four maps, got {self.out_indices}")
            dd = {key: kwargs.get(key) for key in ("device", "dtype")}
            levels = _pyramid(self.embed_dim, self.patch_embed.patch_size[0], **dd)
            self.fpn1, self.fpn2, self.fpn3, self.fpn4 = levels

    def load_classifier(
        self,
        path: str | os.PathLike[str],
        placement: str = "middle",
        use_ema: bool | None = None,
        pos_embed_grid: tuple[int, int] | None = None,
    ) -> None:
        """Start from a classifier's checkpoint file, without its head, class token and that token's position.

        Args:
            path, use_ema: As `vimzoo.models.weights.loading.read_checkpoint` takes them, with its errors.
            placement: Where the classifier has its class token, if it has one.
            pos_embed_grid: As `vimzoo.load_checkpoint` takes it.

        Raises:
            CheckpointError: a tensor of the backbone is missing or has another shape; nothing was loaded.
        """

        def headless(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            native = VIM.to_native(state, model) if VIM.is_official(state) else dict(state)
            if native.pop("cls_token", None) is not None and "pos_embed" in native:
                native["pos_embed"] = patch_tokens(native["pos_embed"], placement)
            own = {
                n: t for n, t in self.state_dict().items() if n.startswith("fpn")
            }  # the file has no pyramid
            kept = Tensors(state)  # keeps the recorded grid
            kept.clear()
            kept.update({n: t for n, t in native.items() if not n.startswith("head.")})
            return {**own, **checkpoint_filter_fn(kept, model, pos_embed_grid=pos_embed_grid)}

        load_into(self, path, headless, use_ema=use_ema)

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Features of ``out_indices``, ``(B, D, H, W)`` each."""
        x, grid = self._embed(x)
        final = len(self.blocks) - 1
        stream = self.features == "stream"
        # The stream after a block is the next block's input.
        take = [i + 1 if stream else i for i in self.out_indices if not stream or i < final]
        x, residual, taps = self._forward_blocks(x, grid, take, len(self.blocks))
        tokens = [after if stream else out for out, after in taps]
        if stream and self.out_indices[-1] == final:
            tokens.append(self._last_feature(x, residual))
        return [
            t.transpose(1, 2).reshape(t.shape[0], t.shape[2], grid[0], grid[1]).contiguous() for t in tokens
        ]

    def _last_feature(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if self.last == "none" or residual is None:
            return x
        return x + residual if self.last == "add" else self.norm(x, residual)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps ``(B, D, h, w)``."""
        maps = self._maps(x)
        if not self.pyramid:
            return tuple(maps)
        maps = maps * 4 if len(maps) == 1 else maps
        levels = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return tuple(level(map_) for level, map_ in zip(levels, maps, strict=True))


def _pyramid(dim: int, patch_size: int, **dd: Any) -> list[nn.Module]:
    def up() -> nn.Module:
        return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2, **dd)

    twice = nn.Sequential(up())
    if patch_size == 16:
        # The authors have SyncBatchNorm; nn.SyncBatchNorm.convert_sync_batchnorm makes it of this.
        four_times = nn.Sequential(up(), nn.BatchNorm2d(dim, **dd), nn.GELU(), up())
        return [four_times, twice, nn.Identity(), nn.MaxPool2d(2, 2)]
    if patch_size == 8:
        return [twice, nn.Identity(), nn.Sequential(nn.MaxPool2d(2, 2)), nn.Sequential(nn.MaxPool2d(4, 4))]
    raise ValueError(f"pyramid: expected a patch_size of 16 or 8, got {patch_size}")
