"""The ``cuda`` backend: scans in CUDA C++, compiled at first use by NVRTC; runs only when it is forced.

Its kernels are checked on the CPU and compiled for several GPUs, but none has been timed: until then Triton's are the
default.
"""

from __future__ import annotations

from ..runtime import cuda_backend
from ..scan import cuda_scans as scan
from . import Backend, functions_of, register


def _load() -> tuple[bool, str]:
    compiler, reason = cuda_backend.load()
    return compiler is not None, compiler or reason


register(
    Backend(
        name="cuda",
        devices={"cuda": None},
        ops=functions_of(scan),
        saves={"scan_paths": scan.require_paths, "selective_scan": scan.require_selective},
        load=_load,
        check_device=cuda_backend.require_device,
        stand_ins=("triton", "reference"),
    )
)
