"""The ``cpu`` backend: kernels in C, built when the package is installed."""

from __future__ import annotations

from ..conv import native as conv
from ..norm import native as norm
from ..runtime import native
from ..scan import native as scan
from . import Backend, register


def _load() -> tuple[bool, str]:
    library, detail = native.load()
    return library is not None, detail


register(
    Backend(
        name="cpu",
        devices={"cpu": 0},
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
        description="native library, instruction set {}",
    )
)
