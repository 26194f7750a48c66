"""Where class activation maps of a Vim are read."""

from typing import Any

from torch import Tensor

from vimzoo.errors import UsageError

from ..class_maps import CamArguments
from ..tokens import split_tokens


def cam_arguments(model: Any, image_size: tuple[int, int] | None) -> CamArguments:
    """The input of the last block's mixing, after its projection.

    After it, a class token no longer depends on the other tokens, so that their gradient would be zero; earlier, they
    are less specific. The output of the projection is the first that is a tensor alone.

    Args:
        model: A Vim.
        image_size: Height and width of the images; by default those that the model was made for.
    """
    embed = model.patch_embed
    grid = embed.grid_size if image_size is None else embed.dynamic_feat_size(image_size)
    placement, expected = model.cls_position, grid[0] * grid[1] + model.num_prefix_tokens

    def to_map(tokens: Tensor) -> Tensor:
        if tokens.shape[1] != expected:
            raise UsageError(
                f"`image_size`: expected images of {grid[0]} x {grid[1]} patches ({expected} tokens), got "
                f"{tokens.shape[1]} tokens; pass the height and width of the images"
            )
        return split_tokens(tokens, placement, grid, "NCHW")[0]

    return CamArguments([model.blocks[-1].mixer.in_proj], to_map)
