"""Checks of images: layout, size and finite pixels."""

import warnings

import torch
from timm.models import register_notrace_function
from torch import Tensor

from vimzoo.ops.runtime.library import is_eager

from .checks import check_floating


@register_notrace_function  # sizes decide, which FX cannot follow
@torch.jit.script_if_tracing  # so that a traced model checks the images that it is given, not those it was traced with
def check_image_sizes(
    x: Tensor, in_chans: int, smallest: tuple[int, int], exact: tuple[int, int] | None = None
) -> Tensor:
    """Return ``x`` if it is a batch of images ``(B, in_chans, H, W)`` with enough pixels.

    Messages are formatted only on failure: formatting a symbolic size would specialise the graph.

    Args:
        smallest: Least height and width.
        exact: The only height and width, of a model made for one size.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` is not floating-point, or has other axes, channels or sizes.
    """
    if not torch.jit.is_scripting():
        check_floating(x)
    if x.dim() != 4:
        raise ValueError(f"x: expected a batch of images (B, {in_chans}, H, W), got {x.dim()} dimensions")
    if x.shape[1] != in_chans:
        raise ValueError(f"x: expected {in_chans} channels (in_chans), got {x.shape[1]}")
    if exact is not None and (x.shape[2] != exact[0] or x.shape[3] != exact[1]):
        raise ValueError(
            f"x: expected a height of {exact[0]} and a width of {exact[1]} (img_size), got {x.shape[2]} and"
            f" {x.shape[3]}; other sizes need img_size= or dynamic_img_size=True"
        )
    if x.shape[2] < smallest[0] or x.shape[3] < smallest[1]:
        raise ValueError(
            f"x: expected a height of at least {smallest[0]} and a width of at least {smallest[1]}, one patch,"
            f" got {x.shape[2]} and {x.shape[3]}"
        )
    return x


@register_notrace_function  # values decide, which FX cannot follow
def warn_unless_finite(x: Tensor) -> None:
    """Warn that the outputs for images with a NaN or infinite pixel are NaN.

    Every model of this package returns NaN for such an image, on every backend, and unchanged outputs for the other
    images of the batch. It is a warning and not an error because tools that count operations or infer shapes call
    models with uninitialised memory. `vimzoo.restoration.Restorer` rejects such pictures.

    On a GPU the check would wait for the device, so only images on the CPU are checked. Tracers, TorchScript, compiled
    and exported graphs and dispatch modes skip it as well.

    Args:
        x: Images ``(B, C, H, W)``.
    """
    if not torch.jit.is_scripting():  # a scripted call of what TorchScript ignores could not be saved
        _warn_unless_finite(x)


@torch.jit.ignore
def _warn_unless_finite(x: Tensor) -> None:
    if not x.is_cpu or not is_eager(x) or not x.numel():
        return
    narrow = x.dtype == torch.float16  # a sum of finite numbers that overflows only costs a second look
    if torch.isfinite(x.detach().sum(dtype=torch.float32 if narrow else x.dtype)):
        return
    bad = (~x.detach().isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        found = f"images {bad[:8]} of {len(x)}"
        warnings.warn(
            f"x: NaN or infinite pixels in {found}; their outputs are NaN", RuntimeWarning, stacklevel=4
        )
