"""Maps the VideoMamba authors' parameter names to ours, and their files to models of other clips."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..vim import names as vim
from ..weights.dialect import Slot

TEMPORAL = "temporal_pos_embed"
_OFFICIAL = {TEMPORAL: "temporal_pos_embedding"}
_OF_PRETRAINING = ("clip_decoder.", "pool_norm.")


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that ``module`` holds; in networks of the pretraining ``norm_f`` is called ``norm``."""
    found = [
        replace(slot, official=_OFFICIAL.get(slot.official, slot.official)) for slot in vim.slots(module)
    ]
    if any(slot.ours.startswith(_OF_PRETRAINING) for slot in found):
        found = [replace(slot, official=slot.official.replace("norm_f.", "norm.", 1)) for slot in found]
    return found


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    names = list(names)
    return "temporal_pos_embedding" in names or vim.is_official(names)


def holds_videomamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is that of a VideoMamba for clips."""
    return any(name in (TEMPORAL, _OFFICIAL[TEMPORAL]) for name in names)


def inflated(kernel: Tensor, frames: int, center: bool = True) -> Tensor:
    """The patch kernel of images ``(D, C, h, w)`` as one of tubelets ``(D, C, frames, h, w)``.

    Args:
        frames: Frames of a tubelet.
        center: Put the kernel at frame ``frames // 2`` and zeros elsewhere; otherwise its share at every frame.
    """
    if not center:
        return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    whole = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    whole[:, :, frames // 2] = kernel
    return whole


def resize_temporal(temporal: Tensor, frames: int) -> Tensor:
    """Embeddings ``(1, T, D)`` interpolated linearly to ``(1, frames, D)``; themselves if that is their length."""
    if temporal.shape[1] == frames:
        return temporal
    rows = F.interpolate(temporal.float().transpose(1, 2), size=frames, mode="linear", align_corners=False)
    return rows.transpose(1, 2).to(temporal.dtype)


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any],
    model: Any,
    official_pos_embed: bool = False,
    pos_embed_grid: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', under our names, for the model's grid, frames and tubelets.

    Of a file of an image model the patch kernel is inflated, and the classifier is left out; the temporal embedding
    stays as it is. Of a file of the masked pretraining, which trains neither, the last norm and the classifier are left
    out. Embeddings of another number of frames are interpolated.

    Args:
        state_dict, model, official_pos_embed, pos_embed_grid: As `vimzoo.models.vim.checkpoint_filter_fn` takes them.

    Raises:
        ValueError: as there.
    """
    state = vim.checkpoint_filter_fn(state_dict, model, official_pos_embed, pos_embed_grid)
    kernel, temporal = state.get("patch_embed.proj.weight"), state.get(TEMPORAL)
    own = model.state_dict()
    left_out: tuple[str, ...] = ()
    if kernel is not None and kernel.dim() == 4:
        state["patch_embed.proj.weight"] = inflated(kernel, model.patch_embed.tubelet_size)
        left_out = (TEMPORAL, "head.")
    pretrained = any(name.startswith(_OF_PRETRAINING) for name in state)
    if pretrained and not any(name.startswith(_OF_PRETRAINING) for name in own):
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_OF_PRETRAINING)}
        left_out = ("norm.", "head.")
    if temporal is not None and temporal.dim() == 3:
        state[TEMPORAL] = resize_temporal(temporal, model.patch_embed.grid_frames)
    if left_out:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(left_out)}
        state.update({name: tensor for name, tensor in own.items() if name.startswith(left_out)})
    return state


def frames_of(state: Mapping[str, Tensor]) -> int | None:
    """The frames of the clips that a checkpoint is for, by its temporal embedding; None if it has none."""
    temporal, kernel = (
        state.get("temporal_pos_embedding", state.get(TEMPORAL)),
        state.get("patch_embed.proj.weight"),
    )
    if temporal is None or kernel is None or kernel.dim() != 5:
        return None
    return int(temporal.shape[1]) * int(kernel.shape[2])
