"""Compiles CUDA C++ at run time with the NVRTC that torch installs: no toolkit, no headers on disk, no GPU needed.

Compiled kernels are cached in ``$XDG_CACHE_HOME/vimzoo`` (``~/.cache/vimzoo``; ``VIMZOO_CACHE`` names another folder),
under a hash of the sources, options and compiler version.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from vimzoo.files import unfinished

from ..backends import Unsupported

_logger = logging.getLogger("vimzoo")
_ELF = b"\x7fELF"


class CompileError(Unsupported):
    """NVRTC refused a kernel; the message is its log."""


def _candidates() -> Iterator[str]:
    """Possible places of NVRTC: pip's wheels first, then torch's own folder, then the system's search path."""
    pattern = "nvrtc64_*.dll" if sys.platform == "win32" else "libnvrtc.so*"
    for package, folders in (("nvidia", ("*/lib", "*/bin")), ("torch", ("lib",))):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec is not None else ():
            found = sorted(path for folder in folders for path in Path(root).glob(f"{folder}/{pattern}"))
            yield from (str(path) for path in found if "alt" not in path.name)
    yield from ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12")


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """NVRTC and its version, or ``None`` and why there is none."""
    reason = "torch brings no NVRTC here and the system has none"
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            if os.path.sep in path:
                reason = f"{Path(path).name} does not load: {error}"
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return library, f"{major.value}.{minor.value}"
    return None, reason


def cache_folder() -> Path:
    """The cache folder of compiled kernels."""
    own = os.environ.get("VIMZOO_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vimzoo"


def cubin(name: str, sources: Mapping[str, str], arch: str, constants: Mapping[str, int]) -> bytes:
    """Machine code of ``sources[name]``, compiled now or by an earlier process.

    Args:
        name: the source to compile; it may include the others.
        sources: text by file name.
        arch: such as ``"sm_90"``.
        constants: macros.

    Raises:
        Unsupported: if there is no NVRTC, or it cannot compile this (`CompileError`).
    """
    library, version = load()
    if library is None:
        raise Unsupported(version)
    options = [
        f"--gpu-architecture={arch}",
        "--std=c++17",
        "--device-as-default-execution-space",  # else NVRTC of CUDA 12 takes lambdas for the host
        *(f"-D{k}={v}" for k, v in sorted(constants.items())),
    ]
    texts = [text for item in sorted(sources.items()) for text in item]
    key = hashlib.sha256("\0".join([version, name, *options, *texts]).encode()).hexdigest()
    path = cache_folder() / f"{Path(name).stem}-{arch}-{key[:32]}.cubin"
    with contextlib.suppress(OSError):
        code = path.read_bytes()
        if code.startswith(_ELF):
            return code
    code = _compile(library, name, sources, options)
    _keep(path, code)
    return code


def _keep(path: Path, code: bytes) -> None:
    """Write atomically, because other processes may read it; a cache that cannot be written is skipped."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as part:
            part.write_bytes(code)
    except OSError as error:
        _logger.info("compiled kernels are not kept: %s", error)


def _compile(library: ctypes.CDLL, name: str, sources: Mapping[str, str], options: list[str]) -> bytes:
    headers = [other for other in sources if other != name]
    texts = (ctypes.c_char_p * len(headers))(*(sources[other].encode() for other in headers))
    names = (ctypes.c_char_p * len(headers))(*(other.encode() for other in headers))
    program = ctypes.c_void_p()
    created = library.nvrtcCreateProgram(
        ctypes.byref(program), sources[name].encode(), name.encode(), len(headers), texts, names
    )
    if created:
        raise CompileError(f"NVRTC: {library.nvrtcGetErrorString(created).decode()}")
    try:
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), flags)
        if failed:
            log = _text(library, "ProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
            raise CompileError(f"NVRTC: {library.nvrtcGetErrorString(failed).decode()}: {log}")
        return _text(library, "CUBIN", program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw
