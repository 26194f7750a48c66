"""The network of VideoMamba's masked pretraining: it predicts the features of another model from visible tokens."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.layers.checks import check_sizes
from vimzoo.layers.tubelet_embed import check_clip_sizes

from .model import VideoMamba

__all__ = ["FeatureDecoder", "VideoMambaPretraining", "sinusoids"]


class FeatureDecoder(nn.Module):
    """A linear map and a layer norm of tokens, then, with ``unit_length``, a division by the length.

    Args:
        dim: Width of the tokens.
        output_dim: Width of the features that are predicted.
        unit_length: Whether features have length 1.
    """

    def __init__(
        self,
        dim: int,
        output_dim: int,
        unit_length: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.head = nn.Linear(dim, output_dim, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(output_dim, device=device, dtype=dtype)
        self.unit_length = unit_length

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D) -> (..., output_dim)``."""
        x = self.norm(self.head(x))
        return F.normalize(x, dim=-1, eps=0.0) if self.unit_length else x


def sinusoids(count: int, dim: int) -> Tensor:
    """The fixed table of positions ``(1, count, dim)``: sines at even, cosines at odd channels."""
    rates = 10000.0 ** (2 * (np.arange(dim) // 2) / dim)
    table = np.arange(count)[:, None] / rates
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    return torch.from_numpy(table).float().unsqueeze(0)


class VideoMambaPretraining(VideoMamba):
    """VideoMamba without a classifier, with decoders of the features of some blocks.

    Args:
        output_dim: Width of the features that decoders predict.
        decoder_dim: Width of the decoders' input, by default the model's.
        layers: Number of blocks whose features are decoded: the last one, and every ``interval`` blocks before it.
        interval: See ``layers``.
        unit_length: Whether decoders divide features by their length.
        last_output: Whether the features of the last block contain its output. Without, which is how the published
            models were trained, nothing trains the last mixer and the last norm.
        **options: As `VideoMamba` takes them.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    def __init__(
        self,
        *,
        output_dim: int = 512,
        decoder_dim: int | None = None,
        layers: int = 1,
        interval: int = 1,
        unit_length: bool = True,
        last_output: bool = False,
        **options: Any,
    ) -> None:
        check_sizes(output_dim=output_dim, layers=layers, interval=interval)
        super().__init__(num_classes=0, global_pool="", **options)
        depth = len(self.blocks)
        self.taken = sorted(depth - 1 - i * interval for i in range(layers))
        if self.taken[0] < 0:
            raise ValueError(f"layers: expected at most {1 + (depth - 1) // interval}, got {layers}")
        self.last_output = last_output
        dd: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        width = decoder_dim or self.embed_dim
        self.clip_decoder = nn.ModuleList(
            FeatureDecoder(width, output_dim, unit_length, **dd) for _ in range(layers)
        )
        self._init_decoders()

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """As `VideoMamba.init_weights`; the decoders' linear maps have the same distribution."""
        super().init_weights(needs_reset)
        self._init_decoders()

    def _init_decoders(self) -> None:
        decoders: Any = self._modules.get("clip_decoder", ())  # not yet there while the model is built
        for decoder in decoders:
            nn.init.trunc_normal_(decoder.head.weight, std=0.02)
            nn.init.zeros_(decoder.head.bias)

    def encode(self, x: Tensor, mask: Tensor | None = None, image: bool = False) -> tuple[Tensor, Tensor]:
        """Visible tokens after the last norm ``(B, L, D)``, and the features of the chosen blocks ``(K, B, L, D)``.

        Args:
            x: Clips ``(B, C, T, H, W)``.
            mask: Hidden tokens ``(B, 1 + tubelets * patches)``, bool, the class token first.
            image: Clips are of one tubelet, which has no temporal embedding.

        Raises:
            ValueError: the mask has another shape, or hides another number of tokens in one clip than in another.
        """
        if image:
            embed = self.patch_embed
            size = embed.img_size if embed.strict_img_size else None
            x = check_clip_sizes(x, embed.in_chans, embed.tubelet_size, embed.patch_size, size)
            grid = embed.dynamic_feat_size((x.shape[3], x.shape[4]))
            tokens = self._placed(embed.project(x), grid, None)
        else:
            tokens, grid = self._embed(x)
        if mask is not None:
            tokens = visible(tokens, mask)
        depth = len(self.blocks)
        wanted = [min(i + 1, depth - 1) for i in self.taken]
        x, residual, taps = self._forward_blocks(tokens, grid, wanted, depth)
        streams = dict(zip(sorted(set(wanted)), (stream for _, stream in taps), strict=True))
        features = [self.norm(streams[i + 1], None)[0] for i in self.taken if i < depth - 1]
        if self.taken[-1] == depth - 1:
            assert residual is not None
            features.append(residual + self.drop_path(x) if self.last_output else residual)
        return self.norm(self.drop_path(x), residual)[0], torch.stack(features)

    def decode(self, features: Tensor, mask: Tensor, image: bool = False) -> Tensor:
        """Features of `encode` -> those that the decoders predict, ``(K, B, L, output_dim)``."""
        tubelets = 1 if image else self.patch_embed.grid_frames
        count = self.patch_embed.num_patches * tubelets + 1
        table = sinusoids(count, features.shape[-1]).to(features).expand(features.shape[1], -1, -1)
        whole = features + visible(table, mask)
        return torch.stack([decoder(part) for decoder, part in zip(self.clip_decoder, whole, strict=True)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Clips ``(B, C, T, H, W)`` and their mask, as `encode` takes them -> predicted features."""
        return self.decode(self.encode(x, mask)[1], mask)


def visible(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens ``(B, L, D)`` that a mask ``(B, L)`` does not hide, in their order.

    Raises:
        ValueError: the mask has another shape, or hides another number of tokens in one sample than in another.
    """
    if mask.shape != tokens.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(
            f"mask: expected {tuple(tokens.shape[:2])} of bool, True for hidden tokens, got {tuple(mask.shape)} of"
            f" {mask.dtype}"
        )
    counts = (~mask).sum(1)
    if not bool((counts == counts[:1]).all()):
        raise ValueError(f"mask: expected as many visible tokens in every clip, got {counts.tolist()}")
    return tokens[~mask].unflatten(0, (tokens.shape[0], -1))
