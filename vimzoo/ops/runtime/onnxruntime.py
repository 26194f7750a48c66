"""The library that gives onnxruntime our scan, causal and depthwise convolutions and norms as operators."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .extensions import Extension, built, planned

HEADERS = ("onnxruntime/interface.h", "selective_scan/arguments.h", "selective_scan/kernel_calls.h")


@cache
def onnxruntime_extension() -> Path:
    """The library with our operators, for ``SessionOptions.register_custom_ops_library``.

    A session with it runs the scans of exported ONNX files by our kernel instead of by the function in the file, and
    takes files of the format ``onnxruntime``. It is built by the first call, in a few seconds, and kept in the cache
    folder (``VIMZOO_CACHE``) for as long as onnxruntime and the kernels' library stay the same. It uses the CPU kernels
    that were built with this package.

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
    return planned("onnxruntime", "operators.cpp", HEADERS)
