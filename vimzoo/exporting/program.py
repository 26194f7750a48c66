"""``torch.export`` of a model, from which most formats start."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram


def to_program(model: nn.Module, example: Tensor, *, dynamic_size: bool = False) -> ExportedProgram:
    """``torch.export`` of a model in evaluation mode, for any number of images.

    Args:
        model: Any network with layers of this package; it is put into evaluation mode, without gradients.
        example: Images ``(B, C, H, W)``, B at least 2. No axis that is to stay open may have size 1.
        dynamic_size: Leave height and width open too.
    """
    last = example.dim() - 1
    axes = {0: Dim.DYNAMIC} | ({last - 1: Dim.DYNAMIC, last: Dim.DYNAMIC} if dynamic_size else {})
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=(axes,))
