"""The effective receptive field: which pixels the centre of a model's output really depends on."""

from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.errors import UsageError


def receptive_field(model: nn.Module, images: Tensor) -> Tensor:
    """Mean magnitude of the gradient of the output's centre with respect to every pixel.

    The effective receptive field of Luo et al. 2016: the gradient of the sum of all channels at the central position,
    its absolute value summed over the colours and averaged over images. The output is the last map of a model with
    timm's ``forward_intermediates``, and otherwise what the model returns, as of restoration models.

    Args:
        model: In evaluation mode; from images to a map or, with ``forward_intermediates``, to anything.
        images: ``(B, C, H, W)`` of a floating-point type; several real images give a smoother field.

    Returns:
        ``(H, W)``, not normalised. Plots usually show the logarithm of its ratio to its maximum.

    Raises:
        UsageError: the model is in training mode, or its output is not ``(B, C, h, w)``.
    """
    if model.training:
        raise UsageError("`model`: expected a model in evaluation mode, call model.eval() first")
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        output = _last_map(model, pixels)
        if output.dim() != 4 or len(output) != len(images):
            raise UsageError(
                f"`model`: expected one that returns maps ({len(images)}, C, h, w), got {tuple(output.shape)}"
            )
        centre = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
        (gradient,) = torch.autograd.grad(centre.sum(), pixels)
    return gradient.abs().sum(1).mean(0)


def _last_map(model: Any, images: Tensor) -> Tensor:
    if not hasattr(model, "forward_intermediates"):
        return model(images)
    return model.forward_intermediates(images, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]
