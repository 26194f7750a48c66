"""The library that gives OpenVINO our scan, causal and depthwise convolutions and norms as operators."""

from __future__ import annotations

from functools import cache
from importlib import util
from pathlib import Path

from vimzoo.errors import UsageError

from .extensions import Extension, built, planned

LINKED = ("openvino", "openvino_onnx_frontend", "tbb")
"""Libraries of OpenVINO's wheel that the extension is linked with."""


@cache
def openvino_extension() -> Path:
    """The library with our operators, for ``openvino.Core.add_extension``.

    It is built by the first call, in a few seconds, and kept in the cache folder (``VIMZOO_CACHE``) for as long as
    OpenVINO and the scan's library stay the same. It uses the CPU kernels that were built with this package.

    Returns:
        The path of a shared library. C++ programs may load it as well.

    Raises:
        UsageError: openvino, a C++ compiler or the CPU kernels are missing, or the library does not build.
    """
    return built(plan())


def plan() -> Extension:
    """How the library is built here; builds nothing.

    Raises:
        UsageError: openvino, a C++ compiler or the CPU kernels are missing.
    """
    spec = util.find_spec("openvino")
    wheel = Path((spec and spec.origin) or "missing/openvino").parent
    links = [found for name in LINKED for found in sorted((wheel / "libs").glob(f"lib{name}.so.*"))[:1]]
    headers = ("selective_scan/arguments.h", "selective_scan/kernel_calls.h")
    extension = planned("openvino", "extension.cpp", headers, includes=[wheel / "include"], links=links)
    if len(links) < len(LINKED):
        raise UsageError(f"openvino_extension: expected Linux libraries {LINKED} in {wheel / 'libs'}")
    return extension
