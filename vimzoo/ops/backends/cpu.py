"""The ``cpu`` backend: kernels in C, built when the package is installed."""

from __future__ import annotations

from ..conv import native as conv
from ..norm import native as norm
from ..runtime import native
from ..scan import native as scan
from . import Backend, functions_of, register


def _load() -> tuple[bool, str]:
    library, detail = native.load()
    return library is not None, detail


register(
    Backend(
        name="cpu",
        devices={"cpu": 0},
        ops=functions_of(scan, conv, norm),
        saves={
            "scan_paths": scan.require_paths,
            "scan_carried": scan.require_paths,
            "selective_scan": scan.require_selective,
        },
        load=_load,
        check_device=native.require_device,
        description="native library, instruction set {}",
    )
)
