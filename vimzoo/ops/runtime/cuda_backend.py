"""Compiles the CUDA C++ kernels with NVRTC at first use, and launches them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import torch
from torch import Tensor

from ..backends import Unsupported
from . import cuda_driver, nvrtc
from .abi import DTYPES, Arguments

ScanArguments = Arguments("cuda_scan")
OLDEST = (7, 5)
"""The lowest compute capability that the current NVRTC compiles for."""


def load() -> tuple[str | None, str]:
    """The compiler, such as ``"NVRTC 13.2"``, or ``None`` and why the backend cannot run."""
    compiler, detail = nvrtc.load()
    if compiler is None:
        return None, detail
    driver, reason = cuda_driver.load()
    return (None, reason) if driver is None else (f"NVRTC {detail}", reason)


def require(*tensors: Tensor | None) -> None:
    """Check that the kernels take these activations.

    Raises:
        Unsupported: for a dtype other than float32, bfloat16 and float16; for a device that is not an NVIDIA GPU of
            compute capability 7.5 or more; without NVRTC or the driver.
    """
    for tensor in tensors:
        if tensor is not None:
            if tensor.dtype not in DTYPES:
                raise Unsupported(f"{tensor.dtype} on {tensor.device.type}")
            require_device(tensor.device)


def require_device(device: torch.device) -> None:
    """Check that the kernels can run on a device.

    Raises:
        Unsupported: it is not an NVIDIA GPU of compute capability 7.5 or more, or NVRTC or the driver is missing.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        raise Unsupported(f"{device.type} tensors: these kernels need an NVIDIA GPU")
    if torch.cuda.get_device_capability(device) < OLDEST:
        raise Unsupported(f"{torch.cuda.get_device_name(device)}: needs compute capability 7.5")
    found, reason = load()
    if found is None:
        raise Unsupported(reason)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 48 * 1024)


@cache
def sources() -> Mapping[str, str]:
    """Text of the CUDA sources by file name."""
    files = resources.files("vimzoo.kernels.selective_scan").iterdir()
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith((".cu", ".cuh")) or file.name == "arguments.h"
    }


@cache
def _kernel(
    source: str, name: str, constants: tuple[tuple[str, int], ...], device: torch.device, dynamic_shared: int
) -> cuda_driver.Kernel:
    major, minor = torch.cuda.get_device_capability(device)
    code = nvrtc.cubin(source, sources(), f"sm_{major}{minor}", dict(constants))
    return cuda_driver.Kernel(code, name, device, dynamic_shared)


def launch(
    source: str, name: str, constants: Mapping[str, int], grid: tuple[int, int], arguments: bytes,
    device: torch.device, dynamic_shared: int = 0,
) -> None:  # fmt: skip
    """Run kernel ``name`` of ``source``, compiled with the macros ``constants``, on blocks of ``THREADS`` threads if
    that is among them, else ``BLOCK``.

    Raises:
        Unsupported: if it cannot be compiled or loaded here.
    """
    kernel = _kernel(source, name, tuple(sorted(constants.items())), device, dynamic_shared)
    kernel(grid, constants.get("THREADS", constants["BLOCK"]), arguments)
