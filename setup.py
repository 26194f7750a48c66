"""Builds the native CPU kernels as optional shared libraries; without a C compiler the package installs all the same.

The libraries use neither Python's nor torch's headers (they are loaded with ctypes), so one wheel serves every
Python >= 3.11 and every torch. One source is compiled once per instruction set; the best one is chosen at run time.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
]
X86_64 = {
    "base": ["-DVIMZOO_VL=4", "-msse2"],
    "avx2": ["-DVIMZOO_VL=8", "-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-DVIMZOO_VL=16", "-march=x86-64-v4", "-mprefer-vector-width=512"],
}
PORTABLE = {"base": ["-DVIMZOO_VL=4"]}


def extensions() -> list[Extension]:
    """One optional extension per instruction set that this kind of machine may have."""
    sources = sorted(str(path) for path in Path("kernels").glob("*/*.c"))
    depends = sorted(str(path) for path in Path("kernels").glob("*/*.h"))
    levels = X86_64 if platform.machine().lower() in ("x86_64", "amd64") else PORTABLE
    return [
        Extension(
            f"vimzoo.kernels._cpu_{level}",
            sources,
            depends=depends,
            extra_compile_args=FLAGS + flags,
            py_limited_api=True,
            optional=True,
        )
        for level, flags in levels.items()
    ]


class BuildNative(build_ext):
    """Separate object folders per instruction set, OpenMP where the compiler has it, no PyInit symbol."""

    build_temp: str

    def build_extensions(self) -> None:
        openmp = ["-fopenmp"] if self._compiles("-fopenmp") else []
        for extension in self.extensions:
            extension.extra_compile_args = extension.extra_compile_args + openmp
            extension.extra_link_args = extension.extra_link_args + openmp
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        shared, self.build_temp = self.build_temp, str(Path(self.build_temp) / ext.name)
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = shared

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols

    def _compiles(self, flag: str) -> bool:
        compiler = getattr(self.compiler, "compiler_so", None)
        if sys.platform == "win32" or not compiler:
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text("int main(void) { return 0; }\n")
            command = [compiler[0], flag, str(source), "-o", str(Path(folder) / "probe")]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except OSError:
                return False


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
