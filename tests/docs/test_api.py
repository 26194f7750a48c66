"""The API reference: every public name has a docstring, and pdoc makes pages of them."""

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import vimzoo

pdoc_doc = pytest.importorskip("pdoc.doc", reason="needs the extra vimzoo[docs]")

ROOT = Path(__file__).resolve().parents[2]
FOR_THE_REPOSITORY = {"vimzoo.kernels"}
"""Modules that documents mention although only those who work on the repository need them."""


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


def named_in_documents() -> dict[str, str]:
    """Dotted names below ``vimzoo`` in README.md and docs -> a document with it."""
    texts = {path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    pattern = re.compile(r"(?<![\w./-])vimzoo(?:\.[A-Za-z_]\w*)+")
    return {name: document for document, text in texts.items() for name in pattern.findall(text)}


def test_names_in_documents_exist() -> None:
    missing = []
    for name, document in named_in_documents().items():
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{document}: {name} ({error})")
    assert missing == []


def test_modules_that_documents_name_are_in_the_reference() -> None:
    """Whoever reads of a module finds it there; a name inside a room may be shown by the room."""
    named = {".".join(name.split(".")[: 3 if ".compat." in name else 2]) for name in named_in_documents()}
    modules = {name for name in named if isinstance(pkgutil.resolve_name(name), types.ModuleType)}
    shown = {*documented(), "vimzoo.compat"}
    assert {name for name in modules - shown if name not in FOR_THE_REPOSITORY} == set()


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
