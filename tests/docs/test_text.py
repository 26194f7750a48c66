"""The text of the documents: links, imports, inline commands, options and settings exist; overrides compose."""

import importlib
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, check_script, commands, composes, name_of

import vimzoo
from vimzoo.compat import vim as compat
from vimzoo.exporting import FORMATS


def prose(document: Path) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)


@cache
def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def options() -> set[str]:
    """Long options of all commands."""
    found = set()
    for path in (ROOT / "vimzoo").rglob("*.py"):
        found |= set(re.findall(r'"(--[a-z][a-z-]*)"', path.read_text()))
    found |= {f"--{name}" for form in FORMATS.values() for name in form.variants}
    return found | {f"--no-{name.removeprefix('--')}" for name in found} | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_imports_and_inline_commands(document: Path) -> None:
    text = prose(document)
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        if "://" in target:
            continue
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    for statement in re.findall(r"`(from vimzoo[^`]*|import vimzoo[^`]*)`", text):
        exec(statement, {})
    known = {command.values[0] for command in commands()}
    for target in re.findall(r"`make ([\w.-]+)", text):
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.M), f"make {target}"
    for command in re.findall(r"`((?:python|pip|vimzoo-train) [^`]*)`", text):
        words = shlex.join(shlex.split(command))
        if words.startswith("python -m tools."):
            assert importlib.util.find_spec(words.split()[2])
        elif re.match(r"python (benchmarks|docs)/", words):
            check_script(words)
        elif words == "python train.py":
            assert (ROOT / "train.py").is_file()
        elif words.startswith("vimzoo-train ") and words not in known:
            overrides = re.sub(r" -m\b| \.\.\.", "", words.removeprefix("vimzoo-train")).strip()
            assert not overrides or "--help" in words or composes(overrides)
        else:
            run_by = [block for block in known if block == words or block.startswith(f"{words} ")]
            assert run_by, f"{command}: not run by any block"
    for name in re.findall(r"`(vimzoo(?:\.\w+)+)", text):
        assert resolves(name), name


SETTINGS = re.compile(
    r"`([+~]*(?:data|run|optim|sched|aug|model|loss|devices|experiment|deterministic|task)[\w.]*=[^`]+)`"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_overrides_and_options_in_the_text(document: Path) -> None:
    """Overrides compose. Options that are named alone are those of a command."""
    if document.name.startswith("migrating"):
        return  # their words are the authors'
    text = prose(document)
    for words in SETTINGS.findall(re.sub(r"`\w+=NAME`", "", text)):
        assert composes(re.sub(r"\b(RUN|FILE|IMAGENET|DF2K)\b", "x", words)), words
    for option in re.findall(r"`(--[a-z][a-z-]*)[` ]", text):
        assert option in options() | FOREIGN, option


FOREIGN = {
    "--device-modules",
    "--ntasks",
    "--max-restarts",
    "--finetune",
    "--pre",
    "--build-arg",
    "--torch",
    "--python",
}
"""Options of other programs that documents name: timm's scripts, SLURM, torchrun, Vim's scripts, pip, docker."""


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    module, *rest = name.split(".")
    found: object = importlib.import_module(module)
    for part in rest:
        if not hasattr(found, part):
            module = f"{module}.{part}"
            found = importlib.import_module(module)
        else:
            found = getattr(found, part)
            module = f"{module}.{part}"
    return True


def test_the_compat_table_is_complete() -> None:
    """What the two modules export stands in README.md, but for the registered functions and state helpers."""
    text = (ROOT / "README.md").read_text()
    helpers = ("official_gradients", "official_state_dict", *compat.VIM_LONG_NAMES)
    for name in {*compat.__all__, *vimzoo.compat.mamba_ssm.__all__} - set(helpers):
        assert name in text, name
