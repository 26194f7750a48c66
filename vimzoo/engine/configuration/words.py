"""Applies overrides (``group=option``, ``key=value``) to the settings of a run, as Hydra does."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vimzoo.commands import trainer
from vimzoo.errors import UsageError, first_line, similar

from .composing import compose_settings, config_dir
from .older import as_begun
from .overrides import quoted

if TYPE_CHECKING:
    from hydra.errors import MissingConfigException

# Settings that name a file or folder
PATHS = re.compile(
    r"\+{0,2}(resume|(teacher\.)?model\.start|data\.(\w*root|labels|meta_info|cache)|hydra\.(run|sweep)\.(dir|subdir))"
)
# Settings that default to another setting
FOLLOWS = {"sched.num_epochs": "run.epochs"}


def parsed(word: str) -> Any:
    """Parse an override's text into Hydra's ``Override``.

    Raises:
        UsageError: the text does not follow Hydra's grammar.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UsageError(f"{word}: {first_line(error)}; expected KEY=VALUE, or KEY='VALUE'") from error


def readable(text: str) -> str:
    """Quote an override's value if it is a path that Hydra's grammar would misread (``=``, quotes, digits only).

    Lists, null, interpolations and sweeps are left alone, unless a file or folder of that name exists.
    """
    key, equals, value = text.partition("=")
    if not equals or not value or "${" in value or not PATHS.fullmatch(key):
        return text
    if not Path(value).exists():
        if value[0] in "'\"":
            return text
        try:
            override = parsed(text)
        except UsageError:
            return quoted(key, value)
        if override.is_sweep_override() or isinstance(override.value(), str | list | None):
            return text  # as Hydra reads it, without escapes: my\ photos
    return quoted(key, value)


def for_hydra(words: Sequence[str]) -> list[str]:
    """A command's overrides in the form that Hydra accepts.

    On resume they refer to the settings of the run, which Hydra does not know: its data may be of another kind than the
    default. They are therefore forced (``++``), and checked by `applied`.
    """
    words = [readable(text) for text in words]
    if not any(text.startswith("resume=") and text not in ("resume=null", "resume=auto") for text in words):
        return words
    return [f"++{text}" if _is_setting(text) else text for text in words]


def as_typed(words: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Remove the ``++`` that `for_hydra` added; also for the overrides of one run of a sweep."""
    own = {text.partition("=")[0] for text in typed}
    return [text if text.partition("=")[0] in own else text.removeprefix("++") for text in words]


def _is_setting(text: str) -> bool:
    match = re.match(r"([A-Za-z_]\w*)[\w.]*=", text)
    return match is not None and match[1] != "hydra" and text.partition("=")[0] not in groups()


def groups() -> set[str]:
    """Names of the configuration groups: ``data``, ``model`` and so on."""
    return {folder.name for folder in config_dir().iterdir() if any(folder.glob("*.yaml"))}


def composed_settings(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that ``python train.py OVERRIDES`` would use.

    Raises:
        UsageError: Hydra refuses an override.
    """
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return compose_settings([readable(word) for word in words])
    except MissingConfigException as error:
        raise UsageError(unknown_option(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(first_line(error)) from error


def unknown_option(error: MissingConfigException) -> str:
    """Explain that a group has no such option, as of ``model=vim_tny``, with the nearest ones."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return first_line(error)
    known = similar(name, error.options, f"{trainer()} --help lists all")
    return f"{group}={name}: there is no such {group}; {known}"


def applied(
    cfg: dict[str, Any], words: Sequence[str], composed: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Apply overrides to the settings of a run: ``group=option`` replaces a group, ``key=value`` one setting.

    Args:
        cfg: settings of the run.
        words: the overrides, without Hydra's own options.
        composed: the configuration of ``python train.py OVERRIDES``; by default it is composed here.

    Raises:
        UsageError: Hydra refuses an override, or the run has no such setting, with the nearest ones.
    """
    overrides = {text: parsed(text) for text in words}
    for text, override in overrides.items():
        if override.is_sweep_override():
            raise UsageError(f"{text}: expected one value, not several")
    names = groups()
    chosen = [
        o.key_or_group for o in overrides.values() if o.key_or_group in names and isinstance(o.value(), str)
    ]
    if composed is None:
        whole = "experiment" in chosen
        composed = composed_settings([t for t, o in overrides.items() if whole or _group(o) in chosen])
    said = {override.key_or_group for override in overrides.values()}
    if "experiment" in chosen:
        return as_begun(composed, cfg, said)
    result = {**copy.deepcopy(composed), **copy.deepcopy(cfg)} | {name: composed[name] for name in chosen}
    result["run"] = composed["run"] | result["run"]  # runs of older versions have fewer settings
    for text, override in overrides.items():
        if _group(override) not in chosen:
            _set(result, text, override)
    for key, source in FOLLOWS.items():
        group, _, name = key.partition(".")
        if key not in said and (group in chosen or setting(cfg, key) == setting(cfg, source)):
            result[group] = result[group] | {name: setting(result, source)}
    return as_begun(result, cfg, said)


def _group(override: Any) -> str:
    return override.key_or_group.partition(".")[0]


def _set(cfg: dict[str, Any], text: str, override: Any) -> None:
    """One setting; ``+`` adds it, ``~`` takes it away."""
    *path, last = override.key_or_group.split(".")
    place: Any = cfg
    for key in path:
        place = place.get(key) if isinstance(place, dict) else None
    known = isinstance(place, dict) and (last in place or override.is_add() or override.is_force_add())
    if not known:
        known = similar(last, place if isinstance(place, dict) else cfg, "see its config.yaml")
        raise UsageError(f"{text}: the run has no such setting; {known}")
    if override.is_delete():
        del place[last]
    else:
        place[last] = _merged(place.get(last), override.value())


def _merged(old: Any, new: Any) -> Any:
    """Merge mappings key by key, as Hydra does; anything else is replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def setting(cfg: dict[str, Any], name: str) -> Any:
    """The value of ``group.key``; None if there is no such setting."""
    value: Any = cfg
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def flat(cfg: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``group.key`` -> value, for all settings."""
    result: dict[str, Any] = {}
    for key, value in cfg.items():
        result |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        )
    return result
