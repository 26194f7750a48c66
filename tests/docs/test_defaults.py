"""Defaults that documents and help texts state are those of the code."""

import argparse
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vimzoo import data, exporting, restoration
from vimzoo.data.images import cache, remote
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.losses import CharbonnierLoss
from vimzoo.engine.processes import watch
from vimzoo.models import UMamba
from vimzoo.models.mambair import MambaIRv2
from vimzoo.restoration import memory, restorer

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("restore", "predict", "eval", "export", "demo", "convert", "doctor")


def restore_option(name: str) -> Any:
    return options("restore")[f"--{name}"].default


def options(command: str) -> dict[str, argparse.Action]:
    """The options of a command, from the parser that it builds."""
    found: dict[str, argparse.Action] = {}

    class Seen(Exception):
        pass

    def parse(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        for action in self._actions:
            found.update(dict.fromkeys(action.option_strings, action))
        raise Seen

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Seen):
        for method in ("parse_args", "parse_intermixed_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, method, parse)
        inspect.unwrap(importlib.import_module(f"vimzoo.{command}").main)([])
    return found


def setting(name: str) -> Any:
    value: Any = composed_settings([])
    for key in name.split("."):
        value = value[key]
    return value


STATED: dict[str, tuple[str, Callable[[], Any]]] = {
    "restoration.md: quality": (r"`--quality` (\d+)", lambda: restore_option("quality")),
    "restoration.md: overlap": (r"default `--overlap` is (\d+) pixels", lambda: restorer.OVERLAP),
    "restoration.md: seed": (r"seeded with `--seed` \(default (\d+)\)", lambda: restore_option("seed")),
    "restoration.md: pixels": (r"more than (\d+) million pixels", lambda: restoration.MAX_PIXELS // 10**6),
    "restoration.md: tile on the CPU": (r"at most (\d+) on the CPU", lambda: memory.LARGEST_ON_CPU),
    "restoration.md: Charbonnier": (r"published eps of (\S+);", lambda: charbonnier_eps()),
    "training.md: minutes": (r"`run\.save_every\.minutes=(\d+)`", lambda: setting("run.save_every.minutes")),
    "training.md: waiting": (r"logs a message after (\d+) seconds", lambda: watch.SAY_SO),
    "training.md: silence": (r"(\d+) seconds without data", lambda: remote.SILENCE),
    "training.md: disk": (r"its disk is (\d+) % full", lambda: 100 * cache.FULL),
    "training.md: header": (r"one per (\d+) KB", lambda: remote.HEADER_BYTES / 1024),
    "training.md: aspect": (r"from 1:2 to (\d):1 \(`data\.max_aspect`\)", lambda: max_aspect()),
    "scaling.md: minutes": (r"default, `run\.save_every\.minutes=(\d+)`", lambda: setting("run.save_every.minutes")),
    "export.md: bound": (r"below (\S+) of the output's standard deviation", lambda: exporting.BOUND),
    "export.md: U-Mamba": (r"\((\S+) for U-Mamba", lambda: UMamba.export_options.bound),
    "export.md: agreement": (r"the bound holds for (\d+) %", lambda: 100 * MambaIRv2.export_options.agreement),
}  # fmt: skip


def charbonnier_eps() -> float:
    return inspect.signature(CharbonnierLoss).parameters["eps"].default


def max_aspect() -> float:
    return inspect.signature(data.Shapes).parameters["max_aspect"].default


@pytest.mark.parametrize("what", STATED)
def test_documents(what: str) -> None:
    """Each sentence is there, and states the value that the code has."""
    pattern, value = STATED[what]
    text = (ROOT / "docs" / what.partition(":")[0]).read_text()
    found = re.findall(re.sub(r"(?<!\\) ", r"\\s+", pattern), text)
    assert found, "the sentence is gone"
    assert all(float(number) == pytest.approx(float(value())) for number in found)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    """A default in a help text is the option's."""
    for name, action in options(command).items():
        text = (action.help or "").replace("%(default)s", str(action.default))
        stated = re.search(r"\(default: ([\w./]+)\)", text)
        if stated and action.default is not None:
            assert stated[1] == str(action.default), name
