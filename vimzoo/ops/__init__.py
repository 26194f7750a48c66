"""Functions on tensors: the selective scan in two forms, what stands around it, and products with small weights."""

from . import backends
from .backends import BackendError, use_backend
from .conv.op import causal_conv1d
from .dense import linear
from .experts import feed_forward
from .norm.op import add_norm
from .paths.path import (
    ATROUS,
    BACKWARD,
    BIDIRECTIONAL,
    CROSS,
    CROSS_3D,
    FORWARD,
    SLICES,
    SNAKES,
    ScanPath,
    grid_arguments,
    pad_paths,
    path_arguments,
)
from .quantized import QuantizedWeight, quantize_weight, quantized_linear
from .scan.along_paths import scan_codes, scan_paths
from .scan.selective import selective_scan

backends.register_all()

__all__ = [
    "ATROUS",
    "BACKWARD",
    "BIDIRECTIONAL",
    "CROSS",
    "CROSS_3D",
    "FORWARD",
    "SLICES",
    "SNAKES",
    "BackendError",
    "QuantizedWeight",
    "ScanPath",
    "add_norm",
    "causal_conv1d",
    "feed_forward",
    "grid_arguments",
    "linear",
    "pad_paths",
    "path_arguments",
    "quantize_weight",
    "quantized_linear",
    "scan_codes",
    "scan_paths",
    "selective_scan",
    "use_backend",
]
