"""Inserts, extracts and pools class tokens in a sequence of patches, and resizes position embeddings around them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy
from torch.fx.experimental.symbolic_shapes import statically_known_true

CLS_TOKENS = {"none": 0, "head": 1, "middle": 1, "double": 2}
"""Number of class tokens for each placement: before the patches, between their halves, at both ends."""


def insert_cls(patches: Tensor, cls_token: Tensor, placement: str) -> Tensor:
    """``(B, M, D)`` patches and ``(1 or B, T, D)`` class tokens -> ``(B, M + T, D)``.

    The middle is index ``M // 2``, so 98 of 197 at 224 pixels.
    """
    token = cls_token.expand(patches.shape[0], -1, -1)
    if placement == "head":
        return torch.cat([token, patches], dim=1)
    if placement == "double":
        return torch.cat([token[:, :1], patches, token[:, 1:]], dim=1)
    middle = patches.shape[1] // 2
    return torch.cat([patches[:, :middle], token, patches[:, middle:]], dim=1)


def patch_tokens(tokens: Tensor, placement: str) -> Tensor:
    """The patches ``(B, M, D)`` of a sequence ``(B, M + T, D)``."""
    if placement == "none":
        return tokens
    if placement == "head":
        return tokens[:, 1:]
    if placement == "double":
        return tokens[:, 1:-1]
    middle = (tokens.shape[1] - 1) // 2
    return torch.cat([tokens[:, :middle], tokens[:, middle + 1 :]], dim=1)


def cls_tokens(tokens: Tensor, placement: str) -> Tensor:
    """The class tokens ``(B, T, D)`` of a sequence ``(B, M + T, D)``."""
    if placement == "none":
        return tokens[:, :0]
    if placement == "head":
        return tokens[:, :1]
    if placement == "double":
        return torch.cat([tokens[:, :1], tokens[:, -1:]], dim=1)
    middle = (tokens.shape[1] - 1) // 2
    return tokens[:, middle : middle + 1]


def cls_count(placement: str) -> int:
    """Number of class tokens.

    Raises:
        ValueError: an unknown placement.
    """
    if placement not in CLS_TOKENS:
        raise ValueError(f"cls_token: expected one of {tuple(CLS_TOKENS)}, got {placement!r}")
    return CLS_TOKENS[placement]


POOLS = ("", "token", "last", "avg", "max")


def checked_pool(pool: str | None, cls_token: str) -> str:
    """The requested pooling; by default the class token's if there is one, else the mean of the patches.

    Raises:
        ValueError: the pooling is unknown, or needs a class token that the model lacks.
    """
    if pool is None:
        return "token" if CLS_TOKENS[cls_token] else "avg"
    if pool not in POOLS:
        raise ValueError(f"global_pool: expected one of {POOLS}, got {pool!r}")
    if pool == "token" and not CLS_TOKENS[cls_token]:
        raise ValueError("global_pool: 'token' needs a class token, got cls_token='none'")
    return pool


def pooled(tokens: Tensor, pool: str, placement: str) -> Tensor:
    """A sequence ``(B, M + T, D)`` -> ``(B, D)``; all of it for ``pool=""``."""
    if pool == "token":
        return cls_tokens(tokens, placement).mean(1)
    if pool == "last":
        return tokens[:, -1]
    if pool == "avg":
        return patch_tokens(tokens, placement).mean(1)
    if pool == "max":
        return patch_tokens(tokens, placement).amax(1)
    return tokens


def split_tokens(
    tokens: Tensor, placement: str, grid: tuple[int, int], output_fmt: str
) -> tuple[Tensor, Tensor]:
    """A sequence ``(B, H * W + T, D)`` -> its patches and its class tokens ``(B, T, D)``.

    The patches are a map for ``output_fmt`` ``"NCHW"`` or ``"NHWC"``, and ``(B, H * W, D)`` for ``"NLC"``.
    """
    patches, prefix = patch_tokens(tokens, placement), cls_tokens(tokens, placement)
    if output_fmt == "NLC":
        return patches, prefix
    maps = patches.reshape(patches.shape[0], grid[0], grid[1], patches.shape[2])
    return maps.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else maps, prefix


def _surely_equal(a: int, b: int) -> bool:
    """Whether two sizes are equal; False for a symbolic size, which a comparison would specialise."""
    if torch.jit.is_scripting():
        return a == b
    return statically_known_true(a == b)


@torch.jit.script_if_tracing
def _traced_resize(
    pos_embed: Tensor,
    old_size: tuple[int, int],
    height: Tensor,
    width: Tensor,
    placement: str,
    official: bool,
) -> Tensor:
    """`resize_pos_embed` for tracing: sizes are tensors, because numbers would become constants."""
    return resize_pos_embed(pos_embed, old_size, (int(height), int(width)), placement, official)


def resize_pos_embed(
    pos_embed: Tensor,
    old_size: tuple[int, int],
    new_size: tuple[int, int],
    placement: str = "middle",
    official: bool = False,
) -> Tensor:
    """Interpolate position embeddings bicubically from one grid to another; rows of class tokens are kept.

    ``official`` is what the authors' fine-tuning does: it takes the first rows for the class tokens',
    wherever those are. With a middle class token that shifts the grid's first half by one and blends the
    class token's row into the patches around it. The published stride-8 models were fine-tuned from such a
    start; nothing else needs it.

    Args:
        pos_embed: ``(1, H * W + T, D)``, rows in the order of the sequence.
        old_size: ``(H, W)``.
        new_size: Rows and columns wanted.
        placement: Where the T class tokens are: ``"none"``, ``"head"``, ``"middle"`` or ``"double"``.
        official: Reproduce the authors' resize.

    Returns:
        ``(1, H' * W' + T, D)`` of the same dtype; ``pos_embed`` itself if the sizes agree.

    Raises:
        RuntimeError: the embeddings are not those of ``old_size``.
    """
    if not torch.jit.is_scripting():
        for given in (pos_embed, *new_size):
            if isinstance(given, Proxy):  # one node of the graph: FX cannot follow what depends on sizes
                args: Any = (pos_embed, old_size, new_size, placement, official)
                return given.tracer.create_proxy("call_function", resize_pos_embed, args, {})
    if not torch.jit.is_scripting() and torch.jit.is_tracing():
        height, width = torch.as_tensor(new_size[0]), torch.as_tensor(new_size[1])
        return _traced_resize(pos_embed, old_size, height, width, placement, official)
    if _surely_equal(old_size[0], new_size[0]) and _surely_equal(old_size[1], new_size[1]):
        return pos_embed
    if official:
        extra = pos_embed.shape[1] - old_size[0] * old_size[1]
        cls_rows, patches = pos_embed[:, :extra], pos_embed[:, extra:]
    else:
        cls_rows, patches = cls_tokens(pos_embed, placement), patch_tokens(pos_embed, placement)
    grid = patches.float().reshape(1, old_size[0], old_size[1], -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=[new_size[0], new_size[1]], mode="bicubic", align_corners=False)
    resized = grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
    if official:
        return torch.cat([cls_rows, resized], dim=1)
    if placement == "none":
        return resized
    return insert_cls(resized, cls_rows, placement)
