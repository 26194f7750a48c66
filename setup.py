"""Builds the native CPU kernels as optional shared libraries; without a C compiler the package installs all the same.

| system | compiler | what is built |
| --- | --- | --- |
| Linux, x86-64 | GCC or Clang | SSE2, AVX2, AVX-512, AVX-512 BF16; OpenMP if it is GNU's, which torch has |
| Linux, 64-bit ARM | GCC or Clang | NEON, and NEON with products of bfloat16 and bytes (ARMv8.6); OpenMP likewise |
| Linux, other | GCC or Clang | one library of portable vectors; OpenMP likewise |
| macOS | Clang | the same without AVX-512 BF16, which no Mac has, and without OpenMP |
| Windows | any | nothing: the sources need GCC's vector extensions and POSIX |

Without OpenMP the kernels have threads of their own. The libraries use neither Python's nor torch's headers (they are
loaded with ctypes), so one wheel serves every Python >= 3.11 and every torch. One source is compiled once per
instruction set; the best one is chosen at run time.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-g0",  # Python asks for debug information: most of a library, and it names the builder's folders
]
AVX512 = ["-DVIMZOO_VL=16", "-march=x86-64-v4", "-mprefer-vector-width=512"]
X86_64 = {
    "base": ["-DVIMZOO_VL=4", "-msse2"],
    "avx2": ["-DVIMZOO_VL=8", "-mavx2", "-mfma", "-mf16c"],
    "avx512": AVX512,
}
LINUX_X86_64 = {**X86_64, "avx512_bf16": [*AVX512, "-mavx512bf16"]}
PORTABLE = {"base": ["-DVIMZOO_VL=4"]}
ARM = {**PORTABLE, "neon_bf16": ["-DVIMZOO_VL=4", "-march=armv8.2-a+bf16+i8mm"]}
OPENMP_PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
SHIPPED_INSIDE = {
    "configs": "vimzoo.configs",
    "integrations": "vimzoo.integrations",
    "kernels": "vimzoo.kernels",
}
"""Folders of the checkout that the wheel carries as packages of these names, with every folder below them."""


def packages() -> dict[str, str]:
    """Every package of the wheel and the folder that it comes from."""
    found = {name: name.replace(".", "/") for name in find_packages(include=["vimzoo", "vimzoo.*"])}
    for top, package in SHIPPED_INSIDE.items():
        for folder in [Path(top), *sorted(path for path in Path(top).rglob("*") if path.is_dir())]:
            name = ".".join([package, *folder.parts[1:]])
            if name not in found and "__pycache__" not in folder.parts:
                found[name] = folder.as_posix()
    return found


def description(readme: str, repository: str | None) -> str:
    """README.md as a package index can show it: links and pictures lead to the repository.

    Args:
        readme: The text, with links relative to the repository's top folder.
        repository: Its address; without one links become plain text, and pictures are left out.
    """
    text, target = r"\[[^\]]*\]", r"\((?![a-z]+:)([^)\s]+)\)"
    if repository is None:
        readme = re.sub(rf"!{text}{target}\n*", "", readme)
        return re.sub(rf"\[([^\]]*)\]{target}", r"\1", readme)
    readme = re.sub(rf"(!{text}){target}", rf"\1({repository}/raw/HEAD/\2)", readme)
    readme = readme.replace("](#", "](README.md#")
    return re.sub(rf"({text}){target}", rf"\1({repository}/blob/HEAD/\2)", readme)


def repository() -> str | None:
    """The address of the repository, ``Repository`` among the URLs in pyproject.toml, if it has one."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "").rstrip("/") or None


def extensions() -> list[Extension]:
    """One optional extension per instruction set that the machine built for, which may be another one, may have."""
    sources = sorted(str(path) for path in Path("kernels").glob("*/*.c"))
    depends = sorted(str(path) for path in Path("kernels").glob("*/*.h"))
    system = sysconfig.get_platform()
    levels = LINUX_X86_64 if system == "linux-x86_64" else X86_64 if system.endswith("x86_64") else PORTABLE
    levels = ARM if system.endswith(("-aarch64", "-arm64")) else levels
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
    """Separate object folders per instruction set, OpenMP where it is torch's too, no PyInit symbol."""

    build_temp: str

    def run(self) -> None:
        """Build into a folder without libraries that are built no more: a wheel takes all that lie there."""
        current = {Path(self.get_ext_filename(extension.name)).name for extension in self.extensions}
        for path in Path(self.build_lib, "vimzoo", "kernels").glob("_cpu_*"):
            if path.name not in current:
                path.unlink()
        super().run()

    def build_extensions(self) -> None:
        if sys.platform == "win32" or self.compiler.compiler_type == "msvc":
            self.announce("vimzoo: no native CPU kernels on Windows; the reference serves instead", level=3)
            return
        self.forget_rpath()
        threads = ["-pthread", *(["-fopenmp"] if self.openmp_works() else [])]
        for extension in self.extensions:
            extension.extra_compile_args = extension.extra_compile_args + threads
            extension.extra_link_args = extension.extra_link_args + threads
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        shared, self.build_temp = self.build_temp, str(Path(self.build_temp) / ext.name)
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = shared

    def forget_rpath(self) -> None:
        """Link without the RUNPATH of the Python that builds: its folder means nothing on another machine."""
        of_python = (sysconfig.get_config_var("LDSHARED") or "").split()
        rpath = {flag for flag in of_python if flag.startswith(("-Wl,-rpath,", "-Wl,-rpath=", "-Wl,-R"))}
        self.compiler.linker_so = [flag for flag in self.compiler.linker_so if flag not in rpath]

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols

    def openmp_works(self) -> bool:
        """Whether a program with GNU's OpenMP compiles and links; not tried on macOS.

        Another runtime (LLVM's) would have a pool of its own beside torch's, whose threads wait for work on a busy core
        far longer than ours do; on macOS it stops the process when it meets the one inside torch.
        """
        if sys.platform == "darwin":
            return False
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder) / "probe.c", Path(folder) / "probe"
            source.write_text(OPENMP_PROBE)
            command = [*self.compiler.compiler_so, "-fopenmp", str(source), "-o", str(program)]
            try:
                done = subprocess.run(command, capture_output=True, check=False)
            except OSError:
                return False
            return done.returncode == 0 and b"libgomp" in program.read_bytes()


setup(
    long_description=description(Path("README.md").read_text(encoding="utf-8"), repository()),
    long_description_content_type="text/markdown",
    packages=list(packages()),
    package_dir=packages(),
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
