"""The check that an image is one."""

import torch
from timm.models import register_notrace_function
from torch import Tensor

from vimzoo.ops.library import is_eager


@register_notrace_function  # values decide, which FX cannot follow
@torch.jit.ignore
def check_finite(x: Tensor) -> None:
    """Refuses images with pixels that are NaN or infinite, which would come out as a confident nothing.

    Only where it costs next to nothing: on the CPU, outside compiled and exported graphs. On a GPU the answer would
    have to be waited for; there such an image gives NaN, for itself alone.

    Args:
        x: Images ``(B, C, H, W)``.

    Raises:
        ValueError: naming the images.
    """
    if (
        not x.is_cpu
        or not is_eager(x)
        or not x.numel()
        or torch.isfinite(x.detach().sum(dtype=torch.float64))
    ):
        return
    bad = (~x.detach().isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"x: expected finite pixels, got NaN or infinity in images {bad[:8]} of {len(x)}")
