"""Quotes overrides (``key=value``) for Hydra's grammar, and explains those that Hydra cannot read."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence

_WORD = re.compile(r"(?P<key>[+~]{0,2}[A-Za-z_][\w.\-/@:]*)=(?P<value>.*)", re.DOTALL)

PLUGINS = {
    "sweep=optuna": ("hydra_plugins.hydra_optuna_sweeper", "sweep"),
    "hydra/sweeper=optuna": ("hydra_plugins.hydra_optuna_sweeper", "sweep"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "cluster"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "cluster"),
}
"""Overrides that need a plugin of Hydra: its module, and the extra that installs it."""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


def quoted(key: str, value: str) -> str:
    """``key=value``, quoted if Hydra's grammar would read the value as anything but this text.

    The result is one argument; in a shell's line it needs `shlex.quote`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    word = f"{key}={value}"
    try:
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override() and override.value() == value:
            return word
    except HydraException:
        pass
    escaped = re.sub(r'(\\*)(?="|$)', r"\1\1", value).replace('"', r"\"")
    return f'{key}="{escaped}"'


def unreadable(words: Sequence[str], *, multirun: bool) -> str | None:
    """Explain the first override that Hydra cannot use, with a remedy; None if all are valid.

    Args:
        words: the command line's arguments; those without ``=`` are not checked.
        multirun: several values (``key=1,2``) mean several runs and are no mistake.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in words:
        if (plugin := PLUGINS.get(word)) and not _installed(plugin[0]):
            return f"{word}: its plugin is not installed; install it with: pip install 'vimzoo[{plugin[1]}]'"
        match = _WORD.fullmatch(word)
        if match is None:
            continue
        advice = f"quote text: {shlex.quote(quoted(match['key'], match['value']))}"
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            return f"{word}: Hydra cannot read this value; {advice}"
        if override.is_sweep_override() and not multirun:
            return f"{word}: several values need -m, which makes a run of each; {advice}"
    return None
