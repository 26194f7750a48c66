"""CUDA kernels on CPU tensors: the real source, compiled by the host's C++ compiler against ``cuda_on_cpu``."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import torch

from vimzoo.ops.runtime import cuda_backend

HERE = Path(__file__).resolve().parent
COMPILER = next((found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)
SHARED = 227 * 1024
"""Bytes of shared memory of an H100's block; the shim has a little more."""
WRAPPER = """
#include "cuda_on_cpu.h"
#include "{source}"
extern "C" int run(const Arguments* a, unsigned grid_x, unsigned grid_y, unsigned threads, int last_first) {{
    return cuda_on_cpu::run([a] {{ {kernel}(*a); }}, grid_x, grid_y, threads, last_first);
}}
"""


class Runner:
    """Stands in for `cuda_backend.launch`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.last_first = folder, False
        self.launched: list[tuple[str, dict[str, int]]] = []
        """Kernels and their constants, in the order of their launches."""

    def __call__(
        self, source: str, name: str, constants: Mapping[str, int], grid: tuple[int, int], arguments: bytes,
        device: torch.device, dynamic_shared: int = 0,
    ) -> None:  # fmt: skip
        """Compile, if need be, and run; fails if threads wait for each other for ever."""
        self.launched.append((name, dict(constants)))
        library = self._library(source, name, constants)
        threads = constants.get("THREADS", constants["BLOCK"])
        code = library.run(ctypes.c_char_p(arguments), *grid, threads, int(self.last_first))
        assert code == 0, f"{name}: some threads wait at a barrier that others never reach"

    def _library(self, source: str, name: str, constants: Mapping[str, int]) -> ctypes.CDLL:
        macros = [f"-D{key}={value}" for key, value in sorted(constants.items())]
        texts = (*cuda_backend.sources().values(), name, *macros)
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
        path = self.folder / f"{key}.so"
        if not path.exists():
            self._compile(source, name, macros, path)
        return ctypes.CDLL(str(path))

    def _compile(self, source: str, name: str, macros: list[str], path: Path) -> None:
        assert COMPILER is not None
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for file, text in cuda_backend.sources().items():
                (Path(folder) / file).write_text(text)
            wrapper, made = Path(folder) / "wrapper.cpp", Path(folder) / "made.so"
            wrapper.write_text(WRAPPER.format(source=source, kernel=name))
            flags = [
                "-O0",
                "-std=c++17",
                "-shared",
                "-fPIC",
                "-w",
                "-U_FORTIFY_SOURCE",
                "-fno-stack-protector",
            ]
            command = [COMPILER, *flags, f"-I{HERE / 'cuda_on_cpu'}", *macros, str(wrapper), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[:4000]
            os.replace(made, path)


@contextlib.contextmanager
def on_cpu(folder: Path) -> Iterator[Runner]:
    """Within the block the ``cuda`` backend runs its kernels on CPU tensors; libraries go to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(folder)
    with (
        mock.patch.object(cuda_backend, "launch", runner),
        mock.patch.object(cuda_backend, "require_device", lambda device: None),
        mock.patch.object(cuda_backend, "shared_limit", lambda device: SHARED),
    ):
        yield runner
