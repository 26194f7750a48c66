"""Loads the C kernels of the ``cpu`` backend: shared libraries built at install time, called through ctypes.

They use neither Python's nor torch's headers, so one build serves every version of both. The library for the best
instruction set that both the machine and the build have is loaded at first use; ``VIMZOO_ISA`` (``base``, ``avx2``,
``avx512``, ``avx512_bf16``; on ARM ``base``, ``neon_bf16``) picks another.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vimzoo import kernels

from ..backends import Unsupported
from .abi import DTYPES, Arguments
from .call import OPERATORS
from .memory import keep_freed_memory

ARM = platform.machine().lower() in ("aarch64", "arm64")
LEVELS = ("base", "neon_bf16") if ARM else ("base", "avx2", "avx512", "avx512_bf16")
"""Instruction sets that libraries are built for, the best last."""
MOST_STATES = 1024
"""States N that a backward pass holds on the stack, 64 bytes each."""
INFERENCE = (
    "depthwise", "depthwise_gradient", "quantized_linear", "product", "weight_gradient", "mlp", "mixer"
)  # fmt: skip
"""Kernels without a backward pass: what layers call in inference, and gradients of weights."""
SHARED = {"scan_carried": "scan_paths"}
"""Operators that run on the kernels, and with the arguments, of another one."""
STRUCTS = tuple(Arguments(op) for op in (*OPERATORS, *INFERENCE) if op not in SHARED)
(
    ScanPathsArgs,
    SelectiveScanArgs,
    CausalConvArgs,
    AddNormArgs,
    DepthwiseArgs,
    DepthwiseGradientArgs,
    QuantizedLinearArgs,
    ProductArgs,
    WeightGradientArgs,
    MlpArgs,
    MixerArgs,
) = STRUCTS


def library_path(level: str) -> Path | None:
    """The file of the library for one instruction set; ``None`` if it was not built."""
    spec = importlib.util.find_spec(f"vimzoo.kernels._cpu_{level}")
    return None if spec is None or spec.origin is None else Path(spec.origin)


def open_library(level: str) -> ctypes.CDLL | None:
    """The library for one instruction set; ``None`` if it was not built."""
    path = library_path(level)
    if path is None:
        return None
    share_openmp()
    return ctypes.CDLL(str(path))


@cache
def share_openmp() -> None:
    """Let the native library use the OpenMP runtime of torch, so that both have one pool of threads.

    On x86-64 both name it ``libgomp.so.1``, and torch has loaded its copy before. PyTorch's wheel for ARM renames its
    copy; here its functions become visible to libraries that are loaded later.
    """
    for path in (Path(torch.__file__).parents[1] / "torch.libs").glob("libgomp*.so*"):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def checkout() -> Path | None:
    """The folder of the checkout that is imported; ``None`` if an installed copy is."""
    folder = Path(kernels.__file__).resolve().parents[2]
    return folder if (folder / "kernels" / "selective_scan").is_dir() else None


def _why_not_built() -> str:
    if sys.platform == "win32":
        return "there is none for Windows"
    if (folder := checkout()) is None:
        return "no C compiler at install time?"
    if kernels.other is not None:
        return f"{folder} is imported, and the libraries in {kernels.other} are of other sources"
    return f"{folder} is imported, where nothing was built"


def _entry_points(library: ctypes.CDLL) -> SimpleNamespace:
    """The functions of a library by their names without prefix.

    Raises:
        AttributeError, ValueError: it lacks a function or a list of fields, or has other fields: its sources are not
            those of today.
    """
    entries = {}

    def told(short: int, entry: Any, _: tuple[Any, ...]) -> int:
        if short:
            library.vimzoo_forget_shortage()
            raise MemoryError(f"out of memory: none is left for the intermediate results of {entry.__name__}")
        return short

    for arguments in STRUCTS:
        op = arguments.struct_name
        fields = ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(library, f"vimzoo_{op}_fields"))).value
        if fields is None or fields.decode().split() != arguments.names:
            raise ValueError(f"fields of {op}")
        for way in ("forward",) if op in INFERENCE else ("forward", "backward"):
            entry = getattr(library, f"vimzoo_{op}_{way}")
            entry.argtypes, entry.restype, entry.errcheck = [ctypes.c_char_p], ctypes.c_int, told
            entries[f"{op}_{way}"] = entry
    fingerprint = library.vimzoo_fingerprint
    fingerprint.argtypes, fingerprint.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_uint64
    return SimpleNamespace(
        **entries,
        set_threads=library.vimzoo_set_threads,
        fingerprint=fingerprint,
        has_int8=bool(library.vimzoo_has_int8()),
        product_takes=library.vimzoo_product_takes,
    )


@cache
def load() -> tuple[SimpleNamespace | None, str]:
    """The native entry points and the instruction set they use, or ``None`` and why there are none."""
    try:
        base = open_library("base")
    except OSError as error:  # such as a runtime library of the compiler that this machine lacks
        return None, f"the native library does not load: {error}"
    if base is None:
        return None, f"the native library was not built ({_why_not_built()})"
    best = int(base.vimzoo_cpu_level())
    wanted = os.environ.get("VIMZOO_ISA")
    if wanted is not None and (wanted not in LEVELS or LEVELS.index(wanted) > best):
        return None, f"VIMZOO_ISA={wanted} is not available here; this processor has {LEVELS[: best + 1]}"
    candidates = [wanted] if wanted else [LEVELS[i] for i in range(best, -1, -1)]
    for level in candidates:
        library = open_library(level)
        if library is not None:
            try:
                entries = _entry_points(library)
                keep_freed_memory()
                return entries, level
            except (AttributeError, ValueError) as error:
                return None, f"the native library was built from older sources; build it again ({error})"
    return None, f"no native library for {candidates} was built"


def require(*tensors: Tensor | None, states: int = 0) -> SimpleNamespace:
    """The native entry points, once it is clear that they can take these activations, and so many states N.

    Raises:
        Unsupported: if there is no library, a tensor is not float32, bfloat16 or float16 on the CPU, or the states do
            not fit a thread's stack.
    """
    library, reason = load()
    if library is None:
        raise Unsupported(reason)
    if states > MOST_STATES:
        raise Unsupported(f"{states} states; at most {MOST_STATES}")
    for tensor in tensors:
        if tensor is not None and (tensor.dtype not in DTYPES or not tensor.is_cpu):
            raise Unsupported(f"{tensor.dtype} on {tensor.device.type}")
    return library


def require_device(device: torch.device) -> None:
    """Check that the library can run on a device.

    Raises:
        Unsupported: it is not the CPU, or there is no library.
    """
    require()
    if device.type != "cpu":
        raise Unsupported(f"{device.type} tensors")


def required_states(states: Tensor, grad: Tensor) -> Tensor:
    """The states that a forward pass saved, contiguous, for a native backward pass.

    Raises:
        Unsupported: none were saved.
    """
    if grad.numel() and not states.numel():
        raise Unsupported("the forward pass saved no states")
    return states.contiguous()


def task_split(batch: int, channels: int) -> tuple[int, int]:
    """Groups of images and parts of the channels into which a backward pass is cut.

    The cut depends on shapes alone, so that sums, and with them gradients, do not depend on the number of threads.
    """
    groups = max(1, min(batch, 32))
    return groups, max(1, min(-(-8 // groups), channels // 24))


def float_parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter as contiguous float32, as the kernels read it."""
    if tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.detach().to(torch.float32).contiguous()


def with_unit_last_stride(tensor: Tensor) -> Tensor:
    """``tensor`` itself if its last axis is dense, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()
