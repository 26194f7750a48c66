"""The model that is to be written: its name or folder, and where its weights come from."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vimzoo.errors import UsageError
from vimzoo.models.registry import known_facts

from .check import options_of

WEIGHTS = "--checkpoint FILE takes a file, --random initial weights"


def locate(name: str) -> tuple[str, str]:
    """What ``timm.create_model`` takes for ``name``, and the registered name behind it.

    Args:
        name: a registered one, or a folder with ``config.json``, as timm and finished runs (in ``model/``) save models.

    Raises:
        UsageError: neither, or a folder without such a file.
    """
    if timm.is_model(name):
        return name, name
    given = Path(name.removeprefix("local-dir:"))
    folder = given if (given / "config.json").is_file() else given / "model"
    if given.is_dir():
        try:
            return f"local-dir:{folder}", json.loads((folder / "config.json").read_text())["architecture"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            expected = "expected a finished run's folder, or one that timm saved a model in"
            raise UsageError(f"MODEL {name}: no config.json that names a model; {expected}") from error
    known = list(known_facts())
    near = difflib.get_close_matches(name, known, 4, 0.4) or difflib.get_close_matches(
        name, timm.list_models(), 4
    )
    raise UsageError(f"MODEL {name}: no such model or folder; near it: {', '.join(near) or 'none'}")


def build(name: str, checkpoint: str | None, random: bool, size: tuple[int, int] | str | None) -> nn.Module:
    """The model to be written, in evaluation mode.

    Args:
        name: as `locate` takes it; a folder brings its weights.
        checkpoint: a file of weights; without it the published ones.
        random: initial weights instead.
        size: what `parse_size` returns; None is the model's own way.

    Raises:
        UsageError: no such model, weights that cannot be had, or a size that it does not take.
    """
    source, architecture = locate(name)
    own = source != architecture
    if own and (checkpoint is not None or random):
        given = "--random" if random else f"--checkpoint {checkpoint}"
        raise UsageError(f"{given}: {name} is a folder and brings its weights; expected neither option")
    cfg = timm.get_pretrained_cfg(architecture)
    options: dict[str, Any] = {}
    if cfg is not None and cfg.fixed_input_size and size is not None:
        options |= {"dynamic_img_size": True} if size == "dynamic" else {"img_size": size}
    if not (own or random or checkpoint or (cfg is not None and cfg.has_weights)):
        raise UsageError(f"MODEL {name}: its weights are published nowhere; {WEIGHTS}")
    if checkpoint is not None:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": checkpoint}}
    elif not random:
        options["pretrained"] = True
    try:
        model = timm.create_model(source, **options).eval()
    except Exception as error:  # a hub's errors have no common ancestor
        hint = "" if checkpoint or own else f"; {WEIGHTS}"
        raise UsageError(f"MODEL {name}: {error}{hint}") from error
    for setting, value in options_of(model).settings.items():
        setattr(model, setting, value)
    return model
