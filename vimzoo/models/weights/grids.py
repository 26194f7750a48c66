"""Finds the grid of patches of a flat position embedding, which its number of rows alone does not determine."""

import logging
import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from ..tokens import resize_pos_embed
from .contents import GRID, Tensors

_logger = logging.getLogger(__name__)

Grid = tuple[int, int]


class GridModel(nn.Module):
    """A model with a flat ``pos_embed``, whose state dict records the grid beside it.

    The record is in the state dict's metadata, which `torch.save` keeps: no name is added. ``load_state_dict``
    resamples an embedding of another grid with as many rows.
    """

    def pos_embed_layout(self) -> tuple[Grid, str, int]:
        """Rows and columns of the grid, where the class tokens are, and how many."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if getattr(self, "pos_embed", None) is not None and metadata is not None:
            metadata.setdefault(prefix[:-1], {})[GRID] = tuple(self.pos_embed_layout()[0])

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Mapping[str, Any], *args: Any
    ) -> None:
        name, saved, own = f"{prefix}pos_embed", local_metadata.get(GRID), getattr(self, "pos_embed", None)
        if saved is not None and own is not None and name in state_dict:
            found = state_dict[name]
            if found.shape == own.shape:  # another number of rows is an error, as in any module
                grid, placement, _ = self.pos_embed_layout()
                state_dict[name] = resize_pos_embed(found, tuple(saved), grid, placement)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def fitted_pos_embed(
    state: Mapping[str, Any], pos_embed: Tensor, model: Any, asked: Grid | None = None, official: bool = False
) -> Tensor:
    """A checkpoint's ``pos_embed`` for the grid of ``model``.

    Args:
        state: The state dict that it is from, as the reader or `torch.load` gives it.
        pos_embed: ``(1, rows * columns + class tokens, D)``.
        model: A `GridModel` with a position embedding.
        asked: Rows and columns of the checkpoint's grid; by default as recorded in the file, else as `_source_grid`
            assumes.
        official: As in `resize_pos_embed`.

    Raises:
        ValueError: The grid has another number of patches, or cannot be determined.
    """
    if pos_embed.dim() != 3 or pos_embed.shape[-1] != model.pos_embed.shape[-1]:
        return pos_embed  # another width or kind: the loader reports it
    grid, placement, extra = model.pos_embed_layout()
    patches = pos_embed.shape[1] - extra
    said = asked or _recorded(state)
    if said is None:
        said = _source_grid(model, grid, patches, getattr(state, "img_size", None))
    elif said[0] * said[1] != patches:
        raise ValueError(
            f"pos_embed_grid: expected rows x columns of {patches} patches (pos_embed has {patches + extra} rows,"
            f" {extra} of class tokens), got {said[0]} x {said[1]}"
        )
    return resize_pos_embed(pos_embed, said, grid, placement, official)


def _recorded(state: Mapping[str, Any]) -> Grid | None:
    """The grid that `GridModel` has written into a state dict's metadata."""
    if isinstance(state, Tensors):
        return state.grids.get("pos_embed")
    grid = getattr(state, "_metadata", {}).get("", {}).get(GRID)
    return None if grid is None else (grid[0], grid[1])


def recorded_or_square(state: Mapping[str, Any], rows: int, asked: Grid | None = None) -> Grid:
    """The grid of a network that is inferred from its tensors: ``asked``, the recorded one, or a square with a warning.

    Raises:
        ValueError: The grid does not have ``rows`` positions, or no grid is known and ``rows`` is not a square number.
    """
    grid, side = asked or _recorded(state), math.isqrt(rows)
    if grid is None and side * side == rows:
        _logger.warning(
            "a position embedding of %d rows is taken for a square; pos_embed_size=(rows, columns) of load_restoration"
            " says otherwise", rows,
        )  # fmt: skip
        return side, side
    if grid is None or grid[0] * grid[1] != rows:
        raise ValueError(f"pos_embed_size: expected (rows, columns) of {rows} positions, got {grid}")
    return grid


def _source_grid(model: Any, own: Grid, patches: int, img_size: Grid | None) -> Grid:
    """The assumed grid of a checkpoint that does not record it.

    By the image size in the ``config.json`` beside the file, by that of the model's configuration, else the model's
    own grid if it has as many patches, else a square.
    """
    args = getattr(model, "pretrained_model_args", None) or {}
    cfg = getattr(model, "pretrained_cfg", None) or {}
    for what, size in (
        ("config.json", img_size),
        ("pretrained_model_args", args.get("img_size")),
        ("pretrained_cfg", tuple((cfg.get("input_size") or ())[1:]) or None),
    ):
        for grid in _grids(model, size):
            if grid[0] * grid[1] == patches:
                if grid != own and patches == own[0] * own[1]:
                    _tell(grid, own, f"inferred from the image size in {what}")
                return grid
    if patches == own[0] * own[1]:
        if own[0] != own[1]:
            _logger.warning(
                "pos_embed of %d patches taken for the model's own grid of %d x %d: nothing says which grid it is;"
                " pos_embed_grid=(rows, columns) of load_checkpoint says otherwise", patches, *own,
            )  # fmt: skip
        return own
    side = math.isqrt(max(patches, 0))
    if not patches or side * side != patches:
        raise ValueError(
            f"pos_embed: {patches} patches are no square grid and the file does not say which grid they are of; pass"
            " pos_embed_grid=(rows, columns) to load_checkpoint"
        )
    _tell((side, side), own, "nothing says which grid it is, and it is a square number")
    return side, side


def _grids(model: Any, size: Any) -> list[Grid]:
    """Possible grids of an image size: with the model's stride, and without overlapping patches."""
    embed = getattr(model, "patch_embed", None)
    if size is None or embed is None:
        return []
    height, width = (size, size) if isinstance(size, int | Integral) else (int(size[0]), int(size[1]))
    return [
        embed.dynamic_feat_size((height, width)),
        (height // embed.patch_size[0], width // embed.patch_size[1]),
    ]


def _tell(grid: Grid, own: Grid, why: str) -> None:
    _logger.warning(
        "pos_embed of %d patches taken for a grid of %d x %d and resampled to %d x %d: %s;"
        " pos_embed_grid=(rows, columns) of load_checkpoint says otherwise",
        grid[0] * grid[1], *grid, *own, why,
    )  # fmt: skip
