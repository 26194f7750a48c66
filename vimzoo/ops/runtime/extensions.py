"""Builds the libraries that give other runtimes our scan as an operator."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources, util
from importlib.metadata import version
from pathlib import Path

from vimzoo.errors import UsageError
from vimzoo.files import unfinished

from . import native
from .nvrtc import cache_folder

FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden")


@dataclass(frozen=True)
class Extension:
    """How a runtime's library is built; building it is left to `built`.

    Attributes:
        package: The runtime's module, also the folder of its sources below ``kernels``.
        source: The source in it.
        headers: Headers that are built in, below ``kernels``.
        compiler: Command of the C++ compiler.
        level: Instruction set of the scan in it.
        kernels: The scan's library, which the new one is linked with.
        includes: Folders of headers.
        links: Further libraries.
    """

    package: str
    source: str
    headers: tuple[str, ...]
    compiler: str
    level: str
    kernels: Path
    includes: Sequence[Path]
    links: Sequence[Path]

    @cached_property
    def library(self) -> Path:
        """Where it is, or will be after its first use: one for each source, release of the runtime and scan."""
        key = hashlib.sha256()
        for part in (f"{self.package}/{self.source}", *self.headers):
            folder, _, name = part.rpartition("/")
            key.update((resources.files(f"vimzoo.kernels.{folder}") / name).read_bytes())
        key.update(f"{version(self.package)} {self.kernels} {self.kernels.stat().st_mtime_ns}".encode())
        return cache_folder() / f"{self.package}-scan-{self.level}-{key.hexdigest()[:32]}.so"


def planned(
    package: str,
    source: str,
    headers: tuple[str, ...],
    *,
    includes: Sequence[Path] = (),
    links: Sequence[Path] = (),
) -> Extension:
    """How a library is built here; builds nothing.

    Raises:
        UsageError: the runtime, a C++ compiler or the CPU kernels are missing.
    """
    if util.find_spec(package) is None:
        extra = "export" if package == "onnxruntime" else package
        raise UsageError(f"{package}_extension: needs {package}; pip install 'vimzoo[{extra}]'")
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise UsageError(
            f"{package}_extension: needs a C++ compiler; expected c++, g++ or clang++ on the PATH"
        )
    library, level = native.load()
    if library is None:
        raise UsageError(f"{package}_extension: needs the CPU kernels: {level}")
    kernels = native.library_path(level)
    assert kernels is not None
    return Extension(package, source, headers, compiler, level, kernels, includes, links)


def built(extension: Extension) -> Path:
    """The library, built if it is not there yet.

    Raises:
        UsageError: it does not build.
    """
    library = extension.library
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    source = resources.files(f"vimzoo.kernels.{extension.package}") / extension.source
    with resources.as_file(source) as file, unfinished(library) as part:
        includes = [f"-I{folder}" for folder in extension.includes]
        command = [
            extension.compiler,
            *FLAGS,
            *includes,
            file,
            "-o",
            part,
            extension.kernels,
            *extension.links,
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.splitlines()
            telling = next((line for line in said if "error" in line), "".join(said[:1]))
            raise UsageError(f"{extension.package}_extension: {extension.compiler} failed: {telling[:300]}")
    return library
