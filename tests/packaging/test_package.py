"""The package from outside: what its archives hold, what importing it costs, that it works away from the checkout."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement

from vimzoo.ops.runtime import native

ROOT = Path(__file__).resolve().parents[2]
ANSWER = """
import torch
import timm, vimzoo
from vimzoo.ops.runtime import native
torch.manual_seed(0)
torch.set_num_threads(1)
sums = []
for name in ("test_vim", "test_vmamba", "test_mambair"):
    model = timm.create_model(name).eval()
    with torch.no_grad():
        out = model(torch.rand(1, *model.pretrained_cfg["input_size"])).double()
    sums += [out.sum().item(), out.square().sum().item()]
print(vimzoo.__file__, native.load()[1], *sums, sep="|")
"""


def python(code: str, *, cwd: Path, path: str = "", interpreter: Path = Path(sys.executable)) -> str:
    """What a fresh interpreter prints, started in ``cwd`` with ``path`` as its only PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": path}
    command = [str(interpreter), "-c", code]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def tracked_files() -> list[Path]:
    """What git tracks, or would at the next commit; skips where there is no git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tracked files and nothing else."""
    folder = tmp_path_factory.mktemp("source")
    for path in tracked_files():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


class Build(NamedTuple):
    """A source distribution, the wheel built from it, and what was said meanwhile."""

    sdist: Path
    wheel: Path
    output: str


@pytest.fixture(scope="module")
def archives(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Built as an index would serve them."""
    out, place = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("unpacked")
    build = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(step: str, folder: Path) -> str:
        command = [sys.executable, "-c", build, step, str(out)]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(command, cwd=folder, env=environment, check=True, **streams).stdout

    said = run("build_sdist", source)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (unpacked,) = place.iterdir()
    said += run("build_wheel", unpacked)
    (wheel,) = out.glob("*.whl")
    return Build(sdist, wheel, said)


@pytest.fixture(scope="module")
def installed(archives: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment into which pip has put the wheel; other packages are borrowed from ours."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    borrowed = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    python_there = folder / "bin" / "python"
    install = [str(python_there), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    outside = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([*install, str(archives.wheel)], cwd=folder, env=outside, capture_output=True, check=True)
    return python_there


def packaged(source: Path) -> dict[str, str]:
    """Files that both archives must have: path in the checkout -> path in the wheel."""
    kinds = {
        "vimzoo": (".py", ".typed", ".html", ".js", ".safetensors"),
        "configs": (".py", ".yaml"),
        "integrations": (".py", ".txt"),
        "kernels": (".py", ".c", ".cpp", ".h", ".cu", ".cuh", ".md"),
    }
    found = {}
    for folder, suffixes in kinds.items():
        for path in sorted((source / folder).rglob("*.*")):
            if path.suffix in suffixes and path.is_file():
                name = path.relative_to(source).as_posix()
                found[name] = name if folder == "vimzoo" else f"vimzoo/{name}"
    return found


@pytest.mark.slow
def test_wheel_contents(source: Path, archives: Build) -> None:
    """Every source and configuration, the native libraries, the licence, and nothing else."""
    with zipfile.ZipFile(archives.wheel) as wheel:
        names = set(wheel.namelist())
    info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
    about = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    libraries = {name for name in names if name.startswith("vimzoo/kernels/_cpu_")}
    assert {name.split("_cpu_")[1].split(".")[0] for name in libraries} <= set(native.LEVELS)
    assert names - libraries == {*packaged(source).values(), *(f"{info}/{name}" for name in about)}
    assert libraries or shutil.which("cc") is None


@pytest.mark.slow
def test_wheel_serves_every_python(archives: Build) -> None:
    """Native libraries know no Python ABI; without a compiler the wheel is pure."""
    with zipfile.ZipFile(archives.wheel) as wheel:
        libraries = [Path(name).name for name in wheel.namelist() if "/_cpu_" in name]
    if not libraries:
        pytest.skip("no C compiler")
    assert "-cp311-abi3-" in archives.wheel.name
    assert all(".abi3." in name or name.endswith(".pyd") for name in libraries)


@pytest.mark.slow
def test_the_build_warns_of_nothing(archives: Build) -> None:
    assert [line for line in archives.output.splitlines() if re.search("warn|deprecat", line, re.I)] == []


@pytest.mark.slow
def test_libraries_name_no_folder_of_the_builder(archives: Build) -> None:
    """No RUNPATH of its Python, no debug information."""
    with zipfile.ZipFile(archives.wheel) as wheel:
        libraries = {name: wheel.read(name) for name in wheel.namelist() if "/_cpu_" in name}
    folders = [sys.base_prefix, sys.prefix, str(Path(archives.wheel).parents[1])]
    found = [
        (name, folder) for name, code in libraries.items() for folder in folders if folder.encode() in code
    ]
    assert found == []


@pytest.mark.slow
def test_sdist_contents(source: Path, archives: Build) -> None:
    """Everything that git has, also what README links to, but the settings of tools; the wheel was built from it."""
    with tarfile.open(archives.sdist) as archive:
        names = {m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()}
    names = {name for name in names if not name.startswith("vimzoo.egg-info/")}
    tracked = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    own = {name for name in tracked if not name.startswith((".", "vimzoo.egg-info/"))}
    assert names == own | {"setup.cfg", "PKG-INFO"}
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", (source / "README.md").read_text())
    assert len(linked) > 10
    assert [
        to for to in linked if to not in names and not any(name.startswith(f"{to}/") for name in names)
    ] == []


@pytest.mark.slow
def test_what_an_index_shows(archives: Build) -> None:
    """Of README everything but links and pictures that lead nowhere outside the repository; author and summary."""
    with zipfile.ZipFile(archives.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        header, _, text = wheel.read(name).decode().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    assert fields["Author"] and fields["Description-Content-Type"] == "text/markdown"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert header.count("\nProject-URL: ") == len(project.get("urls", {}))
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    code = re.findall(r"```.*?```", (ROOT / "README.md").read_text(), flags=re.S)
    assert text.startswith("# vimzoo\n") and len(code) > 5 and all(block in text for block in code)


def test_links_of_the_long_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """They become plain text until the project has an address, then links to its files and pictures."""
    monkeypatch.setattr("setuptools.setup", lambda **arguments: None)
    monkeypatch.chdir(ROOT)
    description = runpy.run_path(str(ROOT / "setup.py"))["description"]
    text = "[A](docs/a.md#b), [B](#b), [C](https://c.org)\n\n![D](d.png)\n\nE\n"
    assert description(text, None) == "A, B, [C](https://c.org)\n\nE\n"
    at = "https://host.org/us/vimzoo"
    assert description(text, at) == (
        f"[A]({at}/blob/HEAD/docs/a.md#b), [B]({at}/blob/HEAD/README.md#b), [C](https://c.org)\n\n"
        f"![D]({at}/raw/HEAD/d.png)\n\nE\n"
    )


@pytest.mark.slow
def test_wheel_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    """Same instruction set, same answers of every family to the last bit."""
    here = python(ANSWER, cwd=tmp_path, path=str(ROOT)).split("|")
    there = python(ANSWER, cwd=tmp_path, interpreter=installed).split("|")
    assert Path(there[0]).is_relative_to(installed.parents[1]) and Path(here[0]).is_relative_to(ROOT)
    assert there[1:] == here[1:] and len(here) == 8
    if shutil.which("cc"):
        assert there[1] in native.LEVELS, there[1]


@pytest.mark.slow
def test_wheel_carries_the_trainer(installed: Path, tmp_path: Path) -> None:
    """The console script finds the configurations that the wheel holds."""
    pytest.importorskip("hydra", reason="the extra `train` is not installed")
    command, outside = [str(installed.parent / "vimzoo-train"), "--help"], {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=True)
    assert "data.root=DIR" in done.stdout and "vimzoo-train run.epochs=10" in done.stdout
    assert "train.py" not in done.stdout


def test_hugging_face_kernels_is_not_shadowed() -> None:
    """From the checkout ``import kernels`` must find Hugging Face's package or a bare folder, not one of ours."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    stand_in = ROOT / "kernels"
    code = "import importlib.util as u; s = u.find_spec('kernels'); print(s.origin if s else None)"
    origin = python(code, cwd=ROOT)
    assert origin == "None" or not Path(origin).is_relative_to(stand_in)


def test_hugging_face_kernels_stays_itself(tmp_path: Path) -> None:
    """With that package on the path, both it and our sources are found, each under its own name."""
    theirs = tmp_path / "kernels"
    theirs.mkdir()
    (theirs / "__init__.py").write_text("OWNER = 'theirs'\n")
    code = "import vimzoo.kernels.selective_scan as ours, kernels; print(kernels.OWNER, ours.__name__)"
    assert (
        python(code, cwd=ROOT, path=f"{ROOT}{os.pathsep}{tmp_path}") == "theirs vimzoo.kernels.selective_scan"
    )


def test_triton_kernels_load_without_the_checkout_on_the_path(tmp_path: Path) -> None:
    """As in an installed package, where there is no module ``kernels``; here another package has that name."""
    pytest.importorskip("triton")
    (tmp_path / "kernels.py").touch()
    code = "from vimzoo.ops.runtime import triton_backend; print(*triton_backend.load())"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert python(code, cwd=tmp_path, path=path)[0] == "{"  # the modules


def test_import_is_light(tmp_path: Path) -> None:
    """Little beside timm, and none of the heavy or optional packages that timm has not brought."""
    code = """
import sys, time
begin = time.process_time()
import timm, timm.data
before, middle = set(sys.modules), time.process_time()
import vimzoo
share = (time.process_time() - middle) / (middle - begin)
print(share, *sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    runs = [python(code, cwd=tmp_path, path=str(ROOT)).split() for _ in range(2)]
    share, added = min(float(run[0]) for run in runs), set(runs[0][1:])
    assert share < 0.25
    heavy = {
        "triton",
        "hydra",
        "omegaconf",
        "mamba_ssm",
        "matplotlib",
        "sklearn",
        "tqdm",
        "pandas",
        "scipy",
        "PIL",
    }
    assert added & heavy == set()


def test_no_paths_of_a_machine_nor_registry_hosts() -> None:
    """Files travel: nobody's home folder, temporary folder, checkout or package index belongs in them."""
    pattern = re.compile(
        r"/(?:home|Users|root|mnt|work)/[\w.-]+|(?<![\w.])/tmp/\w+"
        r"|https?://[\w.-]*(?:pypi|pythonhosted|artifactory|nexus|download\.pytorch)[\w.-]*"
        r"|(?:extra-)?index-url"
    )
    found = []
    for path in tracked_files():
        if path == Path(__file__) or path.suffix in {".gz", ".png", ".npz", ".pt"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def public_members() -> list[tuple[str, object]]:
    """Everything that the public modules offer by ``__all__``, by place, and the public methods of its classes."""
    found: list[tuple[str, object]] = []
    public = ("ops", "layers", "models", "data", "engine", "restoration", "segmentation")
    for name in ("vimzoo", *(f"vimzoo.{package}" for package in public)):
        module = importlib.import_module(name)
        found.append((name, module))
        for item in getattr(module, "__all__", []):
            value = getattr(module, item)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            found.append((f"{name}.{item}", value))
            if inspect.isclass(value):
                methods = inspect.getmembers(value, inspect.isfunction)
                found += [
                    (f"{name}.{item}.{key}", method)
                    for key, method in methods
                    if not key.startswith("_") and method.__module__.startswith("vimzoo.ops")
                ]
    return found


def test_everything_public_has_a_docstring() -> None:
    assert [name for name, value in public_members() if not inspect.getdoc(value)] == []


@pytest.mark.parametrize(
    "folder",
    [
        "vimzoo/ops",
        "vimzoo/pictures",
        "vimzoo/restoration",
        "vimzoo/segmentation",
        "vimzoo/restore.py",
        "vimzoo/doctor.py",
        "setup.py",
    ],
)
def test_public_functions_of_the_ops_are_documented_and_typed(folder: str) -> None:
    """By source, so that helpers outside ``__all__`` count too."""
    path = ROOT / folder
    bare = []
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                typed = node.returns is not None and all(argument.annotation for argument in arguments)
                if not typed or not ast.get_docstring(node):
                    bare.append(f"{file.name}:{node.lineno} {node.name}")
    assert bare == []


def test_extras_are_explained() -> None:
    """docs/install.md has a row for each, and the lower bounds of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "install.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.M))
    assert set(project["optional-dependencies"]) <= rows
    (told,) = re.findall(r"^\| `dev` \| (.*?) \|", text, flags=re.M)
    wanted = [Requirement(line) for line in project["optional-dependencies"]["dev"]]
    names = {name for item in wanted for name in (item.extras or {item.name})}
    assert names == set(re.findall(r"[\w-]+", told))
    for name, version in re.findall(r"(torch|timm)>=([\d.]+)", " ".join(project["dependencies"])):
        assert f"{name} {version} or newer" in text


def test_a_checkout_uses_the_libraries_of_the_installed_package(source: Path, tmp_path: Path) -> None:
    """After ``pip install .`` in a checkout; but not libraries that were built from other sources."""
    base = native.library_path("base")
    if base is None:
        pytest.skip(native.load()[1])
    packages = tmp_path / "site-packages"  # what a wheel puts there, with the libraries of this process
    shutil.copytree(source / "kernels", packages / "vimzoo" / "kernels")
    for library in base.parent.glob("_cpu_*"):
        shutil.copy(library, packages / "vimzoo" / "kernels")
    checkout = tmp_path / "checkout"
    shutil.copytree(source, checkout)
    code = """if True:
        import vimzoo
        from vimzoo.ops.runtime import native
        from vimzoo.ops.runtime.shortfalls import shortfalls
        print(vimzoo.__file__, native.load()[0] is not None, native.load()[1], shortfalls("cpu"), sep="|")"""
    where, loads, level, _ = python(code, cwd=checkout, path=str(packages)).split("|")
    assert Path(where).is_relative_to(checkout) and loads == "True" and level in native.LEVELS

    changed = checkout / "kernels" / "norm" / "add_norm.c"
    changed.write_text(changed.read_text() + "/* changed */\n")
    where, loads, reason, slow = python(code, cwd=checkout, path=str(packages)).split("|")
    assert loads == "False" and f"{checkout} is imported, and the libraries in " in reason
    assert reason.endswith("are of other sources)") and f"pip install -e {checkout}" in slow


@pytest.mark.parametrize("extra", ["train", "cluster", "sweep"])
def test_extras_do_not_bring_a_pre_release_of_hydra(extra: str) -> None:
    """The plugins' own bound, ``>=1.1.0.dev7``, admits pre-releases; one without them makes pip leave them out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["optional-dependencies"][extra]]
    (hydra,) = (requirement.specifier for requirement in wanted if requirement.name == "hydra-core")
    assert not any(hydra.contains(version, prereleases=True) for version in ("1.4.0rc3", "1.4.0"))
    assert hydra.contains("1.3.8")


def test_images_are_built_from_what_a_build_needs() -> None:
    """The container engine is sent these and nothing else; the files in docker/ copy all of it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    folders = {name.split("/")[0] for name in packaged(ROOT)}
    assert "*" in lines and sent == {*folders, "pyproject.toml", "setup.py", "LICENSE", "README.md"}
    for path in (ROOT / "docker").glob("*.Dockerfile"):
        assert "\nCOPY . .\n" in path.read_text(), path
        assert f"docker/{path.name}" in (ROOT / "docs" / "install.md").read_text()
