"""The ``triton`` backend: kernels compiled at first use by the Triton that torch brings."""

from __future__ import annotations

from ..conv import triton as conv
from ..norm import triton as norm
from ..runtime import triton_backend
from ..scan import triton_scans as scan
from . import Backend, register


def _load() -> tuple[bool, str]:
    modules, detail = triton_backend.load()
    return modules is not None, detail


register(
    Backend(
        name="triton",
        devices={"cuda": 0},
        ops={
            "scan_paths": scan.scan_paths,
            "scan_paths_backward": scan.scan_paths_backward,
            "selective_scan": scan.selective_scan,
            "selective_scan_backward": scan.selective_scan_backward,
            "causal_conv1d": conv.causal_conv1d,
            "causal_conv1d_backward": conv.causal_conv1d_backward,
            "add_norm": norm.add_norm,
            "add_norm_backward": norm.add_norm_backward,
        },
        saves={"scan_paths": scan.require_paths, "selective_scan": scan.require_selective},
        load=_load,
        description="Triton {}",
    )
)
