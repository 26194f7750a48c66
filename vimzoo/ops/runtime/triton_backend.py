"""Loads and launches the Triton kernels, which are compiled at first use by the Triton that torch installs.

Importing vimzoo does not import triton. CPU tensors are taken only under ``TRITON_INTERPRET=1``, Triton's own
interpreter, which the tests use; automatic choice never takes them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from functools import cache
from math import gcd
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vimzoo.errors import first_line

from ..backends import Unsupported
from .abi import DTYPES

_MODULES = {
    "scan": "selective_scan.triton_scan",
    "scan_backward": "selective_scan.triton_scan_backward",
    "conv": "causal_conv1d.triton_conv",
    "norm": "norm.triton_norm",
}
ENOUGH_PROGRAMS = 528
"""Warps that occupy each of an H100's 4 x 132 schedulers once; with fewer, channels are spread over more lanes."""


@cache
def load() -> tuple[dict[str, ModuleType] | None, str]:
    """The kernel modules by name and Triton's version, or ``None`` and why they are not available."""
    try:
        triton = importlib.import_module("triton")
    except ImportError:
        return None, "triton is not installed"
    try:
        modules = {name: importlib.import_module(f"vimzoo.kernels.{at}") for name, at in _MODULES.items()}
    except Exception as error:  # another Triton may refuse a kernel's syntax in its own way
        return None, f"triton {triton.__version__} cannot read the kernels: {error}"
    return modules, triton.__version__


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require(*tensors: Tensor | None) -> dict[str, ModuleType]:
    """The kernel modules, if they take these activations.

    Raises:
        Unsupported: without triton; for a dtype other than float32, bfloat16 and float16; for a device that is
            neither a GPU of compute capability 7.5 or more nor, interpreted, the CPU.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    for tensor in given:
        if tensor.dtype not in DTYPES:
            raise Unsupported(f"{tensor.dtype} on {tensor.device.type}")
        check_device_type(tensor.device)
    modules, reason = load()
    if modules is None:
        raise Unsupported(reason)
    return modules


def require_device(device: torch.device) -> None:
    """Check that the kernels can run on a device.

    Raises:
        Unsupported: as in `require`.
    """
    check_device_type(device)
    require()


def check_device_type(device: torch.device) -> None:
    """As `require_device`, without loading the kernels."""
    if device.type == "cpu":
        if not interpreted():
            raise Unsupported("CPU tensors need TRITON_INTERPRET=1")
    elif device.type != "cuda":
        raise Unsupported(f"{device.type} tensors: neither compiled nor tried")
    elif torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 5):
        raise Unsupported(f"{torch.cuda.get_device_name(device)}: needs compute capability 7.5")


def launch(
    kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, warps: int = 1, **meta: Any
) -> None:
    """Run ``kernel`` on ``grid``; multiply-add fusion is enabled explicitly because Triton 3.10 turns it off.

    Raises:
        Unsupported: if Triton cannot compile it here (no C compiler for its launcher, say).
    """
    on_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with on_device:
        try:
            kernel[grid](*args, **meta, num_warps=warps, enable_fp_fusion=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if interpreted():
                raise
            first = first_line(error)
            raise Unsupported(f"triton could not compile or launch {kernel.__name__}: {first}") from error


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """``tensor`` itself if it is dense, else a copy."""
    return None if tensor is None else tensor.contiguous()


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least ``size``, and 1."""
    return 1 << max(0, size - 1).bit_length()


def channel_block(walks: int, channels: int, states: int, registers: int, fewest: int = 8) -> int:
    """Channels of one program of one warp, a power of two.

    32 by default. 64 if there is plenty of work, so that one read of a row serves two channels per lane; 16 or 8, which
    spread the states of a channel over 2 or 4 lanes, if there would otherwise be too few programs to fill the GPU.

    Args:
        walks: images times directions.
        channels: channels of a group; groups do not share programs.
        states: N, padded to a power of two.
        registers: states that one lane may hold.
        fewest: lower bound, where the lanes can hold as many.
    """
    largest = max(1, min(64, registers * 32 // states, power_of_two(channels)))
    least = min(largest, max(fewest, 32 // states))
    block = largest
    while block > least:
        needed = ENOUGH_PROGRAMS * (4 if block > 32 else 1)
        if walks * -(-channels // block) >= needed:
            break
        block //= 2
    return block


def common_alignment(tensor: Tensor, *offsets: int) -> int:
    """The largest power of two up to 8 that divides the strides, all but the last, and ``offsets``."""
    alignment = 8
    for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True):
        alignment = gcd(alignment, stride) if size > 1 else alignment
    for offset in (*offsets, tensor.data_ptr() // tensor.element_size()):
        alignment = gcd(alignment, offset)
    return alignment
