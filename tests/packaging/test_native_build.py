"""setup.py by system and compiler: what it builds, what it leaves out, and that what it builds agrees."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools
from setuptools import Distribution

from vimzoo.ops.runtime import native

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_OPENMP = '#!/bin/sh\nfor word; do [ "$word" = -fopenmp ] && exit 1; done\nexec cc "$@"\n'
ZIGS_NAMES = {
    "-march=x86-64-v4": "-march=x86_64_v4",
    "-march=armv8.2-a+bf16+i8mm": "-mcpu=generic+v8_2a+bf16+i8mm",
}
ANSWER = """
import sys, torch
import vimzoo.kernels
if len(sys.argv) > 1:
    vimzoo.kernels.__path__.insert(0, sys.argv[1])
import timm, vimzoo
from vimzoo.ops.runtime import native
assert native.load()[1] == "base", native.load()[1]
torch.manual_seed(0)
model = timm.create_model("test_vmamba")
y = model(torch.randn(2, 3, 64, 64))
y.square().mean().backward()
torch.save([y.detach(), *(p.grad for p in model.parameters())], "answer.pt")
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py defines, and in ``given`` what it would pass to setup()."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    monkeypatch.chdir(ROOT)
    return {**runpy.run_path(str(ROOT / "setup.py")), "given": given}


@pytest.fixture
def command(script: dict[str, Any], tmp_path: Path) -> Any:
    """The build command for the ``base`` library alone, into ``tmp_path/lib``."""
    base = [e for e in script["given"]["ext_modules"] if e.name.endswith("_base")]
    built = script["BuildNative"](Distribution({"name": "vimzoo", "ext_modules": base}))
    built.build_lib, built.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    built.ensure_finalized()
    return built


def compiler_script(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def answer(folder: Path, *libraries: Path) -> list[Any]:
    """Outputs and gradients of a small model on the base library, of the installation or of a folder."""
    import torch

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIMZOO_ISA": "base"}
    subprocess.run(
        [sys.executable, "-c", ANSWER, *map(str, libraries)], cwd=folder, env=environment, check=True
    )
    return torch.load(folder / "answer.pt")


@pytest.mark.parametrize(
    ("system", "levels"),
    {
        "linux-x86_64": ["base", "avx2", "avx512", "avx512_bf16"],
        "macosx-11.0-x86_64": ["base", "avx2", "avx512"],
        "macosx-11.0-arm64": ["base", "neon_bf16"],
        "macosx-10.9-universal2": ["base"],
        "linux-aarch64": ["base", "neon_bf16"],
        "linux-riscv64": ["base"],
    }.items(),
)
def test_libraries_by_system(
    system: str, levels: list[str], script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags of an architecture reach its compilers only, and what is missing is never an error."""
    monkeypatch.setattr("sysconfig.get_platform", lambda: system)
    found = script["extensions"]()
    assert [e.name.removeprefix("vimzoo.kernels._cpu_") for e in found] == levels
    assert all(e.optional for e in found)
    machine_flags = [flag for e in found for flag in e.extra_compile_args if flag.startswith("-m")]
    assert bool(machine_flags) == (len(levels) > 1)


def test_every_folder_is_a_package(script: dict[str, Any]) -> None:
    """Setuptools warns of folders with data that are none, and will leave them out."""
    shipped: dict[str, str] = script["SHIPPED_INSIDE"]
    tops = {top for top, package in shipped.items() if not (ROOT / package.replace(".", "/")).is_dir()}
    folders = tops | {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("vimzoo", *shipped)
        for path in (ROOT / top).rglob("*.*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    given = script["given"]
    assert (
        set(given["packages"]) == set(given["package_dir"]) and set(given["package_dir"].values()) == folders
    )
    assert given["package_dir"]["vimzoo.configs.aug"] == "configs/aug"


def test_windows_steps_aside(
    command: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    command.compiler = SimpleNamespace(compiler_type="msvc")
    monkeypatch.setattr(command, "announce", lambda text, level=1: said.append(text))
    command.build_extensions()  # would fail at the first use of that compiler
    assert said == ["vimzoo: no native CPU kernels on Windows; the reference serves instead"]
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(native, "open_library", lambda level: None)
    assert native.load.__wrapped__() == (
        None,
        "the native library was not built (there is none for Windows)",
    )


def test_openmp_is_tried_before_it_is_used(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its header, and only GNU's; not on macOS, where a second runtime would stop the process."""
    works: Callable[[], bool] = command.openmp_works
    asks_header = (
        '#!/bin/sh\nfor word; do case "$word" in *.c) grep -q omp.h "$word" || exit 1;; esac; done\n'
        'echo {} > "$word"\n'
    )
    command.compiler = SimpleNamespace(compiler_type="unix", compiler_so=[])
    for runtime in ("libomp.so.5", "libgomp.so.1"):
        command.compiler.compiler_so = [compiler_script(tmp_path, asks_header.format(runtime))]
        assert works() == (runtime == "libgomp.so.1")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not works()
    monkeypatch.setattr(sys, "platform", "linux")
    without = compiler_script(tmp_path, WITHOUT_OPENMP)
    command.compiler.compiler_so = [without, "-fPIC"]
    assert not works()
    command.compiler.compiler_so = [str(tmp_path / "missing")]
    assert not works()


def test_the_builders_python_leaves_no_runpath(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's LDFLAGS ask for stays."""
    given = "gcc -shared -L/opt/python/lib -Wl,-rpath,/opt/python/lib -Wl,-rpath=/opt/p -Wl,-O1"
    monkeypatch.setattr("sysconfig.get_config_var", {"LDSHARED": given}.get)
    command.compiler = SimpleNamespace(linker_so=[*given.split(), "-Wl,-rpath,/usr/local/openmp"])
    command.forget_rpath()
    kept = "gcc -shared -L/opt/python/lib -Wl,-O1 -Wl,-rpath,/usr/local/openmp"
    assert command.compiler.linker_so == kept.split()


def test_libraries_that_are_built_no_more_are_not_shipped(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel takes every file of the build folder, which may be an old one."""
    folder = tmp_path / "lib" / "vimzoo" / "kernels"
    folder.mkdir(parents=True)
    names = ["_cpu_base.abi3.so", "_cpu_former.abi3.so"]
    for name in names:
        (folder / name).touch()
    monkeypatch.setattr("setuptools.command.build_ext.build_ext.run", lambda self: None)
    command.run()
    assert [path.name for path in folder.iterdir()] == names[:1]


def test_a_library_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "_cpu_base.abi3.so"
    broken.write_bytes(b"\x7fELF not a library")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(broken)))
    library, reason = native.load.__wrapped__()
    assert library is None and reason.startswith("the native library does not load: ")
    assert str(broken) in reason


def test_a_library_of_older_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout is updated and not built again: the library knows other fields than Python."""
    monkeypatch.setattr(native.STRUCTS[0], "names", [*native.STRUCTS[0].names, "field_of_tomorrow"])
    library, reason = native.load.__wrapped__()
    assert library is None and "built from older sources; build it again" in reason


@pytest.mark.slow
def test_without_openmp_it_has_threads_of_its_own(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same bits, gradients included."""
    import torch

    monkeypatch.setenv("CC", compiler_script(tmp_path, WITHOUT_OPENMP))
    command.run()
    (library,) = (tmp_path / "lib").rglob("_cpu_base*")
    assert b"libgomp" not in library.read_bytes()
    for got, want in zip(answer(tmp_path, library.parent), answer(tmp_path), strict=True):
        assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["aarch64-macos", "aarch64-linux-gnu", "x86_64-macos", "x86_64-linux-gnu"])
def test_clang_compiles_the_kernels(target: str, script: dict[str, Any], tmp_path: Path) -> None:
    """With setup.py's flags, for the systems that wheels are made for; Clang comes inside the package ziglang."""
    pytest.importorskip("ziglang")
    system = f"macosx-11.0-{target.partition('-')[0]}".replace("aarch64", "arm64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sysconfig.get_platform", lambda: system)
        extensions = script["extensions"]()
    for extension in extensions:
        flags = [ZIGS_NAMES.get(flag, flag) for flag in extension.extra_compile_args]
        out = tmp_path / extension.name
        clang = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", "-fPIC"]
        done = subprocess.run(
            [*clang, *flags, *extension.sources, "-o", str(out)], capture_output=True, text=True
        )
        assert done.returncode == 0 and b"vimzoo_scan_paths_backward" in out.read_bytes(), done.stderr


@pytest.mark.slow
def test_clang_and_gcc_agree(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    import torch

    clang = f'#!/bin/sh\nexec "{sys.executable}" -m ziglang cc -target x86_64-linux-gnu "$@"\n'
    monkeypatch.setenv("CC", compiler_script(tmp_path, clang))
    command.run()
    (library,) = (tmp_path / "lib").rglob("_cpu_base*")
    for got, want in zip(answer(tmp_path, library.parent), answer(tmp_path), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())
