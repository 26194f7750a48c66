"""The library that gives onnxruntime our scan as an operator."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .extensions import Extension, built, planned

HEADERS = ("onnxruntime/interface.h", "selective_scan/arguments.h", "selective_scan/kernel_calls.h")


@cache
def onnxruntime_extension() -> Path:
    """The library with the operator ``vimzoo::ScanPaths``, for ``SessionOptions.register_custom_ops_library``.

    A session with it runs the scans of exported ONNX files by our kernel instead of by the function in the file. It is
    built by the first call, in a second, and kept in the cache folder (``VIMZOO_CACHE``) for as long as onnxruntime and
    the scan's library stay the same. It uses the CPU kernels that were built with this package.

    Returns:
        The path of a shared library. C and C++ programs may register it as well.

    Raises:
        UsageError: onnxruntime, a C++ compiler or the CPU kernels are missing, or the library does not build.
    """
    return built(plan())


def plan() -> Extension:
    """How the library is built here; builds nothing.

    Raises:
        UsageError: onnxruntime, a C++ compiler or the CPU kernels are missing.
    """
    return planned("onnxruntime", "scan_operator.cpp", HEADERS)
