"""The documents, and what the tests of their blocks and of their text share."""

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest

from vimzoo.engine.configuration.words import composed_settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "configs" / "README.md",
    *sorted((ROOT / "kernels").glob("*/README.md")),
    ROOT / "findings" / "README.md",
]
IN_EXTRAS = {"spandrel"}
"""Libraries in extras of their own; an older test environment may lack them."""


def name_of(document: Path) -> str:
    """A document in the names of tests: its path, without ``docs/``."""
    return str(document.relative_to(ROOT)).removeprefix("docs/")


def blocks(language: str) -> list:
    """Fenced blocks of ``language`` in all documents, named by file and line."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S):
            line = text.count("\n", 0, match.start()) + 2
            needed = libraries(match[1]) if language == "python" else []
            found.append(pytest.param(match[1], id="-".join([f"{name_of(document)}:{line}", *needed])))
    return found


def libraries(block: str) -> list[str]:
    """The libraries that a block imports and that may be missing: those of tests/crossings and `IN_EXTRAS`."""
    tables = tomllib.loads((ROOT / "tests/crossings/environments.toml").read_text()).values()
    imported = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return [name for table in (*tables, IN_EXTRAS) for name in table if name in imported]


SLOW = ("torchrun ", "+model.routing=", "--sizes ", "s3://", "gs://", "--format onnx", "sched.epochs=")
"""Parts of commands that take long and differ from quicker ones in an option that other tests cover."""


def commands() -> list:
    """Lines of all bash blocks, continued ones joined, without their comments, each once."""
    places: dict[str, str] = {}
    for block in blocks("bash"):
        for line in block.values[0].replace("\\\n", "").splitlines():
            if command := shlex.join(shlex.split(line, comments=True)):
                places.setdefault(command, f"{block.id}: {command}")
    return [
        pytest.param(command, id=place, marks=[pytest.mark.slow] if any(p in command for p in SLOW) else [])
        for command, place in places.items()
    ]


def check_script(command: str) -> None:
    """A script of the repository exists and knows the words behind it."""
    script, *words = shlex.split(command)[1:]
    text = (ROOT / script).read_text()
    for word in words:
        assert word.isdigit() or word.isupper() or f'"{word.partition("=")[0]}"' in text, command


@cache
def composes(words: str) -> bool:
    """Whether the trainer takes overrides, with some kind of data."""
    for context in (
        "",
        "data=folder",
        "data=shards",
        "data=degraded_folder",
        "task=restore data=paired model=mambair",
        "experiment=shapes",
        "experiment=shapes data=masks model=unet",
        "model=timm model.model_name=x",
    ):
        try:
            composed_settings([*context.split(), *re.split(r" (?=[\w.+~]+=)", words)])
        except Exception as error:  # Hydra's and OmegaConf's have no base of their own
            problem = error
        else:
            return True
    print(f"{words}: {problem}")
    return False
