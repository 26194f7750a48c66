"""The part of the CUDA driver's interface that loads machine code and launches it, through ctypes."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch

from ..backends import Unsupported

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The driver's library, or ``None`` and why there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None, f"no NVIDIA driver ({name} does not load)"
    if library.cuInit(0):
        return None, "the NVIDIA driver does not start"
    return library, name


def _check(library: ctypes.CDLL, what: str, code: int) -> None:
    if code:
        message = ctypes.c_char_p()
        library.cuGetErrorString(code, ctypes.byref(message))
        raise RuntimeError(f"{what}: {(message.value or b'CUDA error %d' % code).decode()}")


def _require() -> ctypes.CDLL:
    library, reason = load()
    if library is None:
        raise Unsupported(reason)
    return library


def _enter_context(library: ctypes.CDLL, device: int) -> None:
    """Make torch's context current: a thread that has not used CUDA yet, such as autograd's, has none."""
    current = ctypes.c_void_p()
    _check(library, "cuCtxGetCurrent", library.cuCtxGetCurrent(ctypes.byref(current)))
    if current.value is None:
        _check(
            library,
            "cuDevicePrimaryCtxRetain",
            library.cuDevicePrimaryCtxRetain(ctypes.byref(current), device),
        )
        _check(library, "cuCtxSetCurrent", library.cuCtxSetCurrent(current))


class Kernel:
    """A kernel on one device, ready to launch.

    Raises:
        Unsupported: if the driver does not take the code.
    """

    def __init__(self, code: bytes, name: str, device: torch.device, dynamic_shared: int) -> None:
        self.library, self.device, self.dynamic_shared = _require(), device, dynamic_shared
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            _enter_context(self.library, torch.cuda.current_device())
            try:
                loaded = self.library.cuModuleLoadData(ctypes.byref(self.module), code)
                _check(self.library, "cuModuleLoadData", loaded)
                found = self.library.cuModuleGetFunction(
                    ctypes.byref(self.function), self.module, name.encode()
                )
                _check(self.library, f"cuModuleGetFunction {name}", found)
                if dynamic_shared > 48 * 1024:
                    allowed = self.library.cuFuncSetAttribute(
                        self.function, _MAX_DYNAMIC_SHARED, dynamic_shared
                    )
                    _check(self.library, f"{dynamic_shared} bytes of shared memory", allowed)
            except RuntimeError as error:
                raise Unsupported(str(error)) from error

    def __call__(self, grid: tuple[int, int], threads: int, arguments: bytes) -> None:
        """Launch on torch's current stream; ``arguments`` are the one struct that the kernel takes."""
        held = ctypes.create_string_buffer(arguments, len(arguments))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(held))
        with torch.cuda.device(self.device):
            _enter_context(self.library, torch.cuda.current_device())
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            launched = self.library.cuLaunchKernel(
                self.function, *grid, 1, threads, 1, 1, self.dynamic_shared, stream, pointers, None
            )
        _check(self.library, "cuLaunchKernel", launched)
