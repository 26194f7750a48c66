"""The API reference: every public name has a docstring, and pdoc makes pages of them."""

import importlib
import pkgutil
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vimzoo

pdoc_doc = pytest.importorskip("pdoc.doc", reason="needs the extra vimzoo[docs]")

ROOT = Path(__file__).resolve().parents[2]
INTERNAL = {"commands", "card_parts", "cards", "exporters", "kernels", "restoration_cards", "version_cards"}
"""Modules for working on the repository, which the reference leaves out."""


def docs_command() -> list[str]:
    """What ``make docs`` runs."""
    said = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "docs"], capture_output=True, text=True, check=True
    ).stdout
    return next(shlex.split(line) for line in said.replace("\\\n", " ").splitlines() if "pdoc" in line)


def documented() -> list[str]:
    """Modules of the reference."""
    given = [word for word in docs_command() if word.split(".")[0] == "vimzoo"]
    return [*given, *(f"vimzoo.{name}" for name in vimzoo.__all__ if name in ("models", "ops"))]


def public(found: "pdoc_doc.Namespace") -> Iterator["pdoc_doc.Doc"]:
    """Public functions, classes and methods that a module or class itself has."""
    for member in found.own_members:
        if not member.name.startswith("_") and member.kind in ("function", "class"):
            yield member
            if member.kind == "class":
                yield from public(member)


@pytest.mark.parametrize("name", documented())
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = pdoc_doc.Module(importlib.import_module(name))
    assert module.docstring
    bare = [d.fullname for d in public(module) if not d.docstring and d.obj.__name__ != "<lambda>"]
    assert bare == []


def test_no_module_is_forgotten() -> None:
    """At the top of the package; packages may choose by ``__all__`` what they show."""
    there = {module.name for module in pkgutil.iter_modules(vimzoo.__path__)}
    listed = {name.split(".")[1] for name in documented() if "." in name}
    assert there - listed == INTERNAL
    compat = {module.name for module in pkgutil.iter_modules([str(ROOT / "vimzoo" / "compat")])}
    assert {name.split(".")[2] for name in documented() if ".compat." in name} == compat - {
        "official",
        "vmamba_ops",
    }


@pytest.mark.slow
def test_the_reference_is_generated(tmp_path: Path) -> None:
    """By the very command, elsewhere; the pages show arguments and what is raised."""
    command = docs_command()
    command[0], command[command.index("build/docs")] = sys.executable, str(tmp_path)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr
    for name in documented():
        assert (tmp_path / f"{name.replace('.', '/')}.html").is_file(), name
    page = (tmp_path / "vimzoo/ops.html").read_text()
    assert "scan_paths" in page and "Arguments:" in page and "Raises:" in page
