"""Settings that do not fit the chosen data, as of an experiment whose ``data`` was replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import yaml

from vimzoo.data import SOURCES
from vimzoo.errors import UsageError, similar

from ..tasks import TASKS, find_task
from .composing import compose_settings, config_dir
from .words import groups

LOADER_KEYS = ("source", "batch_size", "workers", "repeats", "tokens", "balanced")
"""Settings of the group `data` for the loader; the rest are arguments of the source."""


def check_fitting(cfg: dict[str, Any]) -> None:
    """Check that the source of ``data`` exists, has what the task learns from, and takes the group's settings.

    Raises:
        UsageError: it does not; with the sources or tasks that do.
    """
    name, task = cfg["data"]["source"], find_task(cfg["task"])
    if name not in SOURCES:
        raise UsageError(f"data.source={name}: expected one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if source.targets != task.targets:
        suited = [other.name for other in TASKS.values() if other.targets == source.targets]
        others = [other.name for other in SOURCES.values() if other.targets == task.targets]
        raise UsageError(
            f"task={task.name}: it learns from {task.targets}, but data={name} has {source.targets}; "
            f"expected data={_one_of(others)}, or task={_one_of(suited)}"
        )
    own = source.defaults()
    if strange := {key: value for key, value in cfg["data"].items() if key not in (*own, *LOADER_KEYS)}:
        said = ", ".join(f"data.{key}={value}" for key, value in strange.items())
        without = " ".join(f"~data.{key}" for key in strange)
        raise UsageError(f"{said}: {_unknown(name, strange)}; {without} leaves {_it(strange)} out")


def _unknown(name: str, keys: Collection[str]) -> str:
    """Which sources take what this one does not; ends with an expectation."""
    takers = [source for source in SOURCES.values() if set(keys) <= set(source.defaults())]
    alike = [source.name for source in takers if source.targets == SOURCES[name].targets]
    found = alike or [source.name for source in takers]
    has = f"data={name} has no such setting{'s' if len(keys) > 1 else ''}; "
    if found:
        return (
            f"{has}expected data={_one_of(found)}, which {'has' if len(found) == 1 else 'have'} {_it(keys)}"
        )
    own = [*SOURCES[name].defaults(), *LOADER_KEYS]
    return has + similar(next(iter(keys)), own, f"expected one of {', '.join(own)}")


def _it(keys: Collection[str]) -> str:
    return "them" if len(keys) > 1 else "it"


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def made_for(source: str) -> str | None:
    """The augmentation that ``data=SOURCE`` chooses by itself: an option of the group ``aug``."""
    chosen: dict[str, str] = {}
    for file in (config_dir() / "train.yaml", config_dir() / "data" / f"{source}.yaml"):
        if not file.is_file():
            return None
        for entry in yaml.safe_load(file.read_text()).get("defaults", ()):
            chosen |= entry if isinstance(entry, dict) else {}
    return chosen.get("override /aug@_global_.aug", chosen["aug"])


def _paths(settings: Any, before: str = "") -> Iterator[str]:
    """The names of all settings, such as ``optim.lr``."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        yield f"{before}{key}"
        yield from _paths(value, f"{before}{key}.")


def unknown_setting(key: str, words: Sequence[str]) -> str:
    """Explain why Hydra does not know a setting of the command line.

    Args:
        key: The setting, such as ``data.fit``, or its first part that is unknown.
        words: The words of the command.
    """
    word = next(word for word in words if f"{word.partition('=')[0]}.".startswith(f"{key}."))
    group, _, last = key.rpartition(".")
    choices = [word.partition(",")[0] for word in words if word.partition("=")[0] in groups()]
    settings: Any = compose_settings(choices)
    wanted = word.partition("=")[0].rpartition(".")[2]
    elsewhere = ", ".join(path for path in _paths(settings) if path.endswith(f".{wanted}"))
    if group == "data":
        return f"{word}: {_unknown(settings['data']['source'], [last])}"
    for part in group.split(".") if group else ():
        settings = settings.get(part) if isinstance(settings, dict) else None
    otherwise = f"there is {elsewhere}" if elsewhere else "--cfg job shows all"
    known = similar(last, (*(settings or ()), *(() if group else groups())), otherwise)
    return f"{word}: there is no such setting; {known}; +{word} adds it"
