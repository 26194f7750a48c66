"""Functions on tensors: the selective scan in two forms, and the convolution and norm around it."""

from . import backends
from .backends import BackendError, use_backend
from .conv.op import causal_conv1d
from .dense import linear
from .norm.op import add_norm
from .paths.path import (
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
from .scan.along_paths import scan_codes, scan_paths
from .scan.selective import selective_scan

backends.register_all()

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
    "scan_codes",
    "scan_paths",
    "selective_scan",
    "use_backend",
]
