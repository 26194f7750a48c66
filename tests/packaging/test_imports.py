"""Imports point one way and never in a circle; a module is found under its name."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import vimzoo

grimp = pytest.importorskip("grimp", reason="needs the extra vimzoo[dev]")
networkx = pytest.importorskip("networkx", reason="torch installs it")

FLOORS = (
    {"comfyui", "convert", "demo", "doctor", "eval", "export", "exporters", "predict", "restore"},
    {"engine", "spandrel"},
    {"restoration", "exporting", "explain", "compat", "plots"},
    {"data", "models", "quantization"},
    {"film", "layers", "pictures"},
    {"ops"},
    {"kernels", "configs", "metrics", "segmentation"},
    {"commands"},
    {"errors", "files", "records"},
)
"""What lies in ``vimzoo``, from the commands at the top down; each imports only from floors below its own."""


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    """Every import of a module by another, also those inside functions; not those for type checkers alone."""
    graph = grimp.build_graph("vimzoo", exclude_type_checking_imports=True, cache_dir=None)
    return {
        (name, other) for name in graph.modules for other in graph.find_modules_directly_imported_by(name)
    }


def circles(imports: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules that import each other."""
    groups = networkx.strongly_connected_components(networkx.DiGraph(list(imports)))
    return [sorted(group) for group in groups if len(group) > 1]


def upward(imports: set[tuple[str, str]]) -> list[str]:
    """Imports from a floor that is not below the importing one, and of modules that are on none."""
    floor_of = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = []
    for name, other in sorted(imports):
        if name == "vimzoo" or other == "vimzoo":  # the package itself shows what is in it, and its version
            continue
        first, second = name.split(".")[1], other.split(".")[1]
        if first != second and not floor_of.get(first, 99) < floor_of.get(second, -1):
            wrong.append(f"{name} -> {other}")
    return wrong


def test_no_circles(imports: set[tuple[str, str]]) -> None:
    assert len(imports) > 300 and circles(imports) == []


def test_imports_point_down(imports: set[tuple[str, str]]) -> None:
    assert upward(imports) == []


def test_the_tests_above_can_fail() -> None:
    assert circles({("vimzoo.a", "vimzoo.b"), ("vimzoo.b", "vimzoo.c"), ("vimzoo.c", "vimzoo.a")}) == [
        ["vimzoo.a", "vimzoo.b", "vimzoo.c"]
    ]
    wrong = {
        ("vimzoo.ops.x", "vimzoo.models"),
        ("vimzoo.data.x", "vimzoo.models"),
        ("vimzoo.new", "vimzoo.ops"),
    }
    assert len(upward(wrong)) == 3 and not upward(
        {("vimzoo.eval", "vimzoo.engine"), ("vimzoo.ops.a", "vimzoo.ops.b")}
    )


def modules(package: ModuleType) -> Iterator[tuple[ModuleType, str, ModuleType]]:
    """A package, the name of a module in it, and that module; for all packages below ``package``."""
    for found in pkgutil.iter_modules(package.__path__):
        if package.__name__ == "vimzoo.kernels" and found.name.startswith("_cpu_"):
            continue  # libraries for ctypes
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        yield package, found.name, module
        if found.ispkg:
            yield from modules(module)


def test_no_function_hides_a_module() -> None:
    """``vimzoo.x.y`` is the module of that name, also after ``from .y import y``."""
    hidden = [
        module.__name__ for package, name, module in modules(vimzoo) if getattr(package, name) is not module
    ]
    assert hidden == []


def test_no_two_neighbours_differ_by_a_letter() -> None:
    names: dict[str, list[str]] = {}
    for package, name, _ in modules(vimzoo):
        names.setdefault(package.__name__, []).append(name)
    pairs = [pair for found in names.values() for pair in itertools.combinations(found, 2) if alike(*pair)]
    assert pairs == []


def alike(first: str, second: str) -> bool:
    """Whether one letter more or another one makes a name the other."""
    short, long = sorted((first, second), key=len)
    if len(short) == len(long):
        return sum(a != b for a, b in zip(short, long, strict=True)) == 1
    return any(short == long[:i] + long[i + 1 :] for i in range(len(long)))
