"""``torch.export`` of a model, from which most formats start."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .record import Examples


def to_program(model: nn.Module, example: Examples, *, dynamic_size: bool = False) -> ExportedProgram:
    """``torch.export`` of a model in evaluation mode, for any number of images.

    Args:
        model: Any network with layers of this package; it is put into evaluation mode, without gradients.
        example: Images ``(B, C, H, W)``, or all inputs in a tuple, B at least 2. No axis that is to stay open may have
            size 1.
        dynamic_size: Leave height and width open too, the last two axes.
    """
    examples = (example,) if isinstance(example, Tensor) else tuple(example)
    axes = [(0, each.dim() - 2, each.dim() - 1) if dynamic_size else (0,) for each in examples]
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        dynamic = tuple(dict.fromkeys(opened, Dim.DYNAMIC) for opened in axes)
        return torch.export.export(model, examples, dynamic_shapes=dynamic)
