"""Operations of any model, counted on the meta device: nothing is computed."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from vimzoo.ops.runtime.flops import papers_flops


def count_operations(model: nn.Module, *shapes: tuple[int, ...]) -> tuple[int, int]:
    """Operations of one image, or one set of other inputs, in evaluation.

    Args:
        model: Any model of ours; it is left as it is.
        *shapes: Of each input: channels, height and width of an image.

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
        copied(*(torch.empty(1, *shape, device="meta") for shape in shapes))
    rest = counter.get_total_flops()
    ours, papers = (sum(kind) for kind in zip(*scans, (0, 0), strict=True))
    return rest + ours, (rest + papers) // 2
