"""The ``cpu`` backend: shared libraries built from ``kernels/`` at install time, called through ctypes.

They know neither Python nor torch, so nothing ties them to a version of either. The one for the best instruction set
that both the machine and the build have is loaded at first use; ``VIMZOO_ISA`` (``base``, ``avx2``, ``avx512``) picks
another.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import struct
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from vimzoo import kernels

from ..backends import Unsupported

LEVELS = ("base", "avx2", "avx512")
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MOST_STATES = 1024
"""States N that a backward pass holds on the stack, 64 bytes each."""


class Arguments:
    """Packs named 64-bit integers and addresses in the field order of a C struct; what is not named is 0."""

    def __init__(self, fields: str) -> None:
        self.nothing = dict.fromkeys(fields.split(), 0)
        self.pack = struct.Struct(f"={len(self.nothing)}q").pack

    def __call__(self, **values: int) -> bytes:
        values = {**self.nothing, **values}
        if len(values) != len(self.nothing):
            raise TypeError(f"unknown fields: {sorted(set(values) - set(self.nothing))}")
        return self.pack(*values.values())


# ``scan_paths_args`` of ``kernels/selective_scan/scan_paths.c``.
ScanPathsArgs = Arguments(
    "batch length channels directions states rank steps height width merge dtype threads "
    "batch_groups parts x_directions row_directions x x_dbl z x_b x_l x_k r_b r_l r_k z_b z_l A dt_weight dt_bias D "
    "A_k w_k bias_k D_k codes table out kept dy dy_b dy_l dy_k dx dx_dbl dz dA dW dbias dD",
)
# ``selective_scan_args`` of ``kernels/selective_scan/selective_scan.c``.
SelectiveScanArgs = Arguments(
    "batch channels length states groups dtype bc_dtype softplus threads batch_groups parts "
    "u delta z u_b u_d u_l delta_b delta_d delta_l z_b z_d z_l B C B_b B_g B_n B_l C_b C_g C_n C_l "
    "A D delta_bias out last_state kept dy dy_b dy_d dy_l d_last du ddelta dz dB dC dA dD dbias",
)
# ``causal_conv1d_args`` of ``kernels/causal_conv1d/causal_conv1d.c``.
CausalConvArgs = Arguments(
    "batch length channels directions taps silu dtype threads batch_groups x x_b x_l weight bias reverse out "
    "dy dy_b dy_l dy_k dx dweight dbias",
)
# ``add_norm_args`` of ``kernels/norm/add_norm.c``.
AddNormArgs = Arguments(
    "rows channels rms threads row_groups x_dtype residual_dtype kept_dtype x x_row residual weight bias eps_bits "
    "out kept dout dkept dx dresidual dweight dbias",
)

_ENTRIES = tuple(
    f"vimzoo_{op}_{way}"
    for op in ("scan_paths", "selective_scan", "causal_conv1d", "add_norm")
    for way in ("forward", "backward")
)


def open_library(level: str) -> ctypes.CDLL | None:
    """The library for one instruction set; ``None`` if it was not built."""
    spec = importlib.util.find_spec(f"vimzoo.kernels._cpu_{level}")
    if spec is None or spec.origin is None:
        return None
    return ctypes.CDLL(spec.origin)  # after torch, so that both share one OpenMP runtime


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
        AttributeError: the library lacks one.
    """
    entries = {}
    for name in _ENTRIES:
        entry = getattr(library, name)
        entry.argtypes, entry.restype = [ctypes.c_char_p], None
        entries[name.removeprefix("vimzoo_")] = entry
    return SimpleNamespace(**entries, set_threads=library.vimzoo_set_threads)


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
                return _entry_points(library), level
            except AttributeError as error:  # a symbol that an older build lacks
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
        if tensor is not None and (tensor.dtype not in DTYPES or tensor.device.type != "cpu"):
            raise Unsupported(f"{tensor.dtype} on {tensor.device.type}")
    return library


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


def address(tensor: Tensor | None) -> int:
    """Where a tensor's first item lies; 0 for ``None``.

    Raises:
        ValueError: it is not in this process's memory, or its memory was freed, so that C would read elsewhere.
    """
    if tensor is None:
        return 0
    if not tensor.is_cpu:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)}: expected all on cpu, got one on {tensor.device}"
        )
    pointer = tensor.data_ptr()
    if not pointer and tensor.numel():
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)}: expected memory, got a storage resized to 0"
        )
    return pointer


def float_parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter as contiguous float32, as the kernels read it."""
    if tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.detach().to(torch.float32).contiguous()


def with_unit_last_stride(tensor: Tensor) -> Tensor:
    """``tensor`` itself if its last axis is dense, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()
