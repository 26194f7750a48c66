"""Functions on tensors: the selective scan in its two faces, and the convolution and norm around it."""

from .add_norm import add_norm
from .backends import BackendError, use_backend
from .causal_conv1d import causal_conv1d
from .linear import linear
from .scan_path import (
    ATROUS,
    BACKWARD,
    BIDIRECTIONAL,
    CROSS,
    FORWARD,
    SNAKES,
    ScanPath,
    pad_paths,
    path_arguments,
)
from .scan_paths import scan_paths
from .selective_scan import selective_scan

__all__ = [
    "ATROUS",
    "BACKWARD",
    "BIDIRECTIONAL",
    "CROSS",
    "FORWARD",
    "SNAKES",
    "BackendError",
    "ScanPath",
    "add_norm",
    "causal_conv1d",
    "linear",
    "pad_paths",
    "path_arguments",
    "scan_paths",
    "selective_scan",
    "use_backend",
]
