"""A learned position embedding of the first map, which other image sizes interpolate."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import Tensor, nn

from .staged import StagedModel
from .weights.contents import bare

__all__ = ["MapPositions", "checkpoint_filter_fn", "resize_map"]


class MapPositions(StagedModel):
    """A `StagedModel` with a position embedding ``pos_embed (1, C, H, W)`` of the first map, or None.

    Attributes:
        authors_head: What the authors call the classifier, after `Dialect.spell`.
    """

    authors_head = "head"
    if TYPE_CHECKING:  # TorchScript takes annotations of a class for attributes to compile
        patch_embed: Any
        pos_embed: nn.Parameter | None

    @torch.jit.ignore
    def checkpoint_filter(self) -> Any:
        """As `StagedModel.checkpoint_filter`; also for the position embedding's grid."""
        return checkpoint_filter_fn

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | None = None
    ) -> None:
        """Set the image size and resize the position embedding, if there is one; without one, any size works unchanged.

        Raises:
            ValueError: ``patch_size`` is another than the model's.
        """
        super().set_input_size(img_size, patch_size)
        if img_size is not None and self.pos_embed is not None:
            with torch.no_grad():
                sides = (side // self.patch_embed.patch_size for side in to_2tuple(img_size))
                resized = resize_map(self.pos_embed, *sides)
            self.pos_embed = nn.Parameter(resized.detach(), requires_grad=self.pos_embed.requires_grad)

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> the first map, with positions."""
        return self._with_positions(self.patch_embed(x))

    def _with_positions(self, x: Tensor) -> Tensor:
        pos_embed = self.pos_embed
        if pos_embed is not None:
            x = x + resize_map(pos_embed, x.shape[1], x.shape[2]).permute(0, 2, 3, 1)
        return x


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', under our names and for the model's grid.

    Args:
        state_dict: Tensors by name, in a wrapper such as ``{"model": ...}`` or not.
        model: The `MapPositions` they are for; checkpoints that fit it already are returned unchanged.
    """
    state_dict = bare(state_dict)
    state, dialect = dict(state_dict), model.dialect
    if dialect.is_official(state):
        state = dialect.to_native(state, model)
        # the loader must know a classifier by our name even if the model has none
        head = rf"^{re.escape(model.authors_head)}\.(weight|bias)$"
        state = {re.sub(head, r"head.fc.\1", name): value for name, value in state.items()}
    pos_embed, wanted = state.get("pos_embed"), getattr(model, "pos_embed", None)
    if pos_embed is not None and wanted is not None and pos_embed.shape[:2] == wanted.shape[:2]:
        state["pos_embed"] = resize_map(pos_embed, wanted.shape[2], wanted.shape[3])
    return state


def resize_map(pos_embed: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings ``(1, C, H, W)`` for another grid, bicubic as the VMamba authors' loader does it."""
    if not torch.jit.is_scripting() and torch.jit.is_tracing():
        return _traced_resize(pos_embed, torch.as_tensor(height), torch.as_tensor(width))
    if pos_embed.shape[2] == height and pos_embed.shape[3] == width:
        return pos_embed
    resized = F.interpolate(pos_embed.float(), [height, width], mode="bicubic", align_corners=False)
    return resized.to(pos_embed.dtype)


@torch.jit.script_if_tracing
def _traced_resize(pos_embed: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """`resize_map` as a traced graph holds it: sizes are tensors, or they would be constants."""
    return resize_map(pos_embed, int(height), int(width))
