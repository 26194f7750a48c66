"""Opens a model by a registered name, a folder, an address on the hub, or a file of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import nn

from vimzoo.errors import UsageError, similar

from .inferred import load_restoration
from .registry import find_facts, known_facts
from .routes import adopt_routing
from .weights.class_names import file_options
from .weights.hub import MissingWeightsError
from .weights.loading import CheckpointError, load_checkpoint

FILE_HINT = "--checkpoint FILE gives a file of weights"


class Found(NamedTuple):
    """The model that a user's name, folder or address refers to.

    Attributes:
        source: For ``timm.create_model``.
        name: The registered name, without tag; None if only the hub knows it.
        complete: Whether the source includes its weights and options.
    """

    source: str
    name: str | None
    complete: bool


def find_model(given: str, argument: str = "--model") -> Found:
    """What a name, a folder or an address means; loads nothing.

    Args:
        given: A registered name with or without tag, ``hf-hub:OWNER/NAME``, or a folder with ``config.json``: that of a
            finished run, or one that timm saved a model in, with or without ``local-dir:`` before it.
        argument: What the user calls it, for messages.

    Raises:
        UsageError: it is none of these, or the model has no weights of this tag.
    """
    if given.startswith("hf-hub:"):
        return Found(given, None, True)
    folder = Path(given.removeprefix("local-dir:"))
    if timm.is_model(given):
        name = given.partition(".")[0]
        if name in known_facts():
            find_facts(given, argument=f"{argument} ")  # for the tag
        return Found(given, name, False)
    if not folder.is_dir():
        known = similar(given, known_facts(), "")
        known = known or similar(given, timm.list_models(), "timm.list_models() names all models")
        raise UsageError(f"{argument} {given}: no such model or folder; {known}")
    folder = folder if (folder / "config.json").is_file() else folder / "model"
    try:
        config = json.loads((folder / "config.json").read_text())
        return Found(f"local-dir:{folder}", config["architecture"], True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = "expected the folder of a finished run, or one that timm saved a model in"
        raise UsageError(f"{argument} {given}: no config.json that names a model; {expected}") from error


def open_model(
    given: str | None,
    checkpoint: str | Path | None = None,
    *,
    random: bool = False,
    use_ema: bool | None = None,
    argument: str = "--model",
    hint: str = FILE_HINT,
    **options: Any,
) -> nn.Module:
    """A model with weights, on the CPU in evaluation mode.

    Args:
        given: As in `find_model`. None or empty, or a file of weights: a restoration model whose architecture is
            inferred from the weights.
        checkpoint: A file of weights for a registered name; by default the published ones.
        random: Initial weights instead.
        use_ema: Take the file's moving average of the weights, or the trained ones; None: see `read_checkpoint`.
        argument: What the user calls ``given``, for messages.
        hint: How the user gives other weights, for messages.
        options: Of ``timm.create_model``.

    Raises:
        UsageError: there is no such model, or its weights are not available or do not load (`CheckpointError`).
    """
    if given and not checkpoint and Path(given).is_file():
        given, checkpoint = None, given
    if not given:
        if not checkpoint:
            raise UsageError(f"{argument}: expected a model's name, a folder, or a file of weights")
        return load_restoration(checkpoint, use_ema=use_ema)
    found = find_model(given, argument)
    if found.complete and (checkpoint or random):
        option = "--random" if random else f"--checkpoint {checkpoint}"
        raise UsageError(
            f"{option}: {given} has weights of its own; expected the registered name of a model with it"
        )
    if not checkpoint:
        options["pretrained"] = not random
        return created(found.source, options, hint).eval()
    if not Path(checkpoint).is_file():
        raise UsageError(f"--checkpoint {checkpoint}: no such file")
    if use_ema is None:
        model = created(found.source, file_options(Path(checkpoint)) | options, hint).eval()
    else:
        model = created(found.source, options, hint).eval()
        load_checkpoint(model, checkpoint, use_ema=use_ema)
    adopt_routing(model, checkpoint, use_ema)
    return model


def created(source: str, options: dict[str, Any], hint: str) -> nn.Module:
    """``timm.create_model(source, **options)``.

    Args:
        source: Also ``local-dir:`` and ``hf-hub:``.
        options: Of ``timm.create_model``.
        hint: How the user gives a file of weights, for messages.

    Raises:
        UsageError: an option is refused, or the weights are not available or do not fit.
    """
    file = (options.get("pretrained_cfg_overlay") or {}).get("file")
    try:
        return timm.create_model(source, **options)
    except MissingWeightsError as error:
        raise UsageError(f"{error.reason}; {hint}") from error
    except CheckpointError:
        raise
    except Exception as error:  # errors of the network, the hub and its cache have no common ancestor
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, TypeError | ValueError | AssertionError | RuntimeError):
            reason = f"{type(error).__name__}: {reason}"
        where = f"{file}: " if file and str(file) not in reason else ""
        advice = f"; {hint}" if options.get("pretrained") and not file else ""
        raise UsageError(f"{source}: {where}{reason.removeprefix(f'{source}: ')}{advice}") from error
