"""Calls of the scan for the operators of other runtimes, and the ONNX files that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from test_export_scan import called
from torch import Tensor

from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath, path_arguments
from vimzoo.ops.scan import native
from vimzoo.ops.scan.call import ScanCall

WALKS = {
    "sequence": (BIDIRECTIONAL, (1, 50), True, True),
    "cross": (CROSS, (30, 40), False, True),
    "windows": ((ScanPath.window(2), ScanPath.window(2).reversed()), (13, 15), False, True),
    "separate": (CROSS, (30, 40), True, False),
}
"""Paths, height and width, whether each direction has an input of its own, and whether they are added."""


def cases(name: str, dtype: torch.dtype, file: Path) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Inputs of the file that this writes, and the output of our kernel, which tests/ops compares with the reference.

    One image, whose channels threads share, and several. A runtime computes float16 in float32.
    """
    paths, (height, width), own, merge = WALKS[name]
    K, L, D, N, R = len(paths), height * width, 88, 3, 2
    for batch in (1, 3):
        x = torch.randn(batch, L, K, D) if own else torch.randn(batch, L, D)
        x_dbl = torch.randn(batch, L, K, R + 2 * N)
        parameters = (-torch.rand(K, D, N), torch.randn(K, D, R), torch.randn(K, D), torch.randn(K, D))
        z = torch.randn(batch, L, D).to(dtype) if merge else None
        walk = (*path_arguments(paths, height, width), height, width, merge)
        call = ScanCall(x.to(dtype), x_dbl.to(dtype), *parameters, z, *walk)
        model, feeds = called(call)
        onnx_ir.save(model, file)
        exact = replace(call, x=call.x.float(), x_dbl=call.x_dbl.float(), z=None if z is None else z.float())
        yield feeds, native.scan_paths(exact)[0].to(dtype)
