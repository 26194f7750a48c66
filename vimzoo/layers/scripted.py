"""Tables of scan paths in TorchScript, which has no objects of this package; a scripted model calls Python."""

import torch
from torch import Tensor

from vimzoo.ops.paths.path import named_table


@torch.jit.ignore
def scripted_table(kind: str, names: list[str], height: int, width: int, device: torch.device) -> Tensor:
    """As `vimzoo.ops.paths.path.named_table`, of a map."""
    return named_table(kind, names, (height, width), str(device))


@torch.jit.ignore
def scripted_grid_table(kind: str, names: list[str], sizes: list[int], device: torch.device) -> Tensor:
    """As `vimzoo.ops.paths.path.named_table`."""
    return named_table(kind, names, sizes, str(device))
