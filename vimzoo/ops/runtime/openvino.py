"""Builds the library that gives OpenVINO our scan as an operator."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from functools import cache
from importlib import resources, util
from importlib.metadata import version
from pathlib import Path

from vimzoo.errors import UsageError
from vimzoo.files import unfinished

from . import native
from .nvrtc import cache_folder

LINKED = ("openvino", "openvino_onnx_frontend", "tbb")
"""Libraries of OpenVINO's wheel that the extension is linked with."""
FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden")


@cache
def openvino_extension() -> Path:
    """The library with the operator ``vimzoo::ScanPaths``, for ``openvino.Core.add_extension``.

    It is built by the first call, in a few seconds, and kept in the cache folder (``VIMZOO_CACHE``) for as long as
    OpenVINO and the scan's library stay the same. It uses the CPU kernels that were built with this package.

    Returns:
        The path of a shared library. C++ programs may load it as well.

    Raises:
        UsageError: openvino, a C++ compiler or the CPU kernels are missing, or the library does not build.
    """
    spec = util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise UsageError("openvino_extension: needs openvino; pip install 'vimzoo[openvino]'")
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise UsageError("openvino_extension: needs a C++ compiler; expected c++, g++ or clang++ on the PATH")
    library, level = native.load()
    if library is None:
        raise UsageError(f"openvino_extension: needs the CPU kernels: {level}")
    kernels = native.library_path(level)
    assert kernels is not None
    wheel = Path(spec.origin).parent
    folder = resources.files("vimzoo.kernels.openvino")
    with resources.as_file(folder / "scan_extension.cpp") as source:
        text = source.read_bytes() + (source.parents[1] / "selective_scan" / "arguments.h").read_bytes()
        key = hashlib.sha256(text + f"{version('openvino')} {kernels} {kernels.stat().st_mtime_ns}".encode())
        path = cache_folder() / f"openvino-scan-{level}-{key.hexdigest()[:32]}.so"
        if path.is_file():
            return path
        links = [found for name in LINKED for found in sorted((wheel / "libs").glob(f"lib{name}.so.*"))[:1]]
        if len(links) < len(LINKED):
            raise UsageError(f"openvino_extension: expected Linux libraries {LINKED} in {wheel / 'libs'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as part:
            command = [compiler, *FLAGS, f"-I{wheel / 'include'}", source, "-o", part, kernels, *links]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.splitlines()
                telling = next((line for line in said if "error" in line), "".join(said[:1]))
                raise UsageError(f"openvino_extension: {compiler} failed: {telling[:300]}")
    return path
