"""Shapes of inputs, and operations of any model, counted on the meta device: nothing is computed."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from vimzoo.ops.runtime.flops import papers_flops


def count_operations(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Operations of one image in evaluation.

    Args:
        model: Any model of ours; it is left as it is.
        shape: Channels, height and width of the image.

    Returns:
        The count with a multiply-add as 2 operations, and as papers count, with a multiply-add as 1.
    """
    scans = []

    def both(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        ours = flop_registry[torch.ops.vimzoo.scan_paths](*args, out_val=out_shape, **kwargs)
        scans.append((ours, 2 * papers_flops("scan_paths", *args)))  # all other terms come out doubled, too
        return 0

    copied = copy.deepcopy(model).to("meta").eval()
    mapping = {torch.ops.vimzoo.scan_paths: both}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        copied(torch.empty(1, *shape, device="meta"))
    rest = counter.get_total_flops()
    ours, papers = (sum(kind) for kind in zip(*scans, (0, 0), strict=True))
    return rest + ours, (rest + papers) // 2


def input_shape(model: Any, size: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Shape of one input: channels, the frames of a model of clips, height and width.

    Args:
        model: With timm's ``pretrained_cfg``.
        size: Height and width; by default the model's own.
    """
    channels, *own = model.pretrained_cfg["input_size"]
    frames = getattr(model, "num_frames", None)
    return (channels, *(() if frames is None else (frames,)), *(size or own))
