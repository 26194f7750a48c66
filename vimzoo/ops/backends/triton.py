"""The ``triton`` backend: kernels compiled at first use by the Triton that torch installs."""

from __future__ import annotations

from ..conv import triton as conv
from ..norm import triton as norm
from ..runtime import triton_backend
from ..scan import triton_scans as scan
from . import Backend, functions_of, register


def _load() -> tuple[bool, str]:
    modules, detail = triton_backend.load()
    return modules is not None, detail


register(
    Backend(
        name="triton",
        devices={"cuda": 0},
        ops=functions_of(scan, conv, norm),
        saves={
            "scan_paths": scan.require_paths,
            "scan_carried": scan.require_paths,
            "selective_scan": scan.require_selective,
        },
        load=_load,
        check_device=triton_backend.require_device,
        description="Triton {}",
    )
)
