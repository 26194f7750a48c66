"""``timm.create_model`` with errors that name the setting at fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from vimzoo.errors import UsageError, similar
from vimzoo.models import CheckpointError
from vimzoo.models.opening import created
from vimzoo.models.weights.hub import MissingWeightsError


def model_cfg(name: str) -> dict[str, Any]:
    """timm's pretrained_cfg of a registered model; empty for ``hf-hub:`` and ``local-dir:`` names.

    Raises:
        UsageError: no such model, with the nearest names.
    """
    if ":" in name:
        return {}
    if not timm.is_model(name):
        known = similar(name.split(".")[0], timm.list_models(), "timm.list_models() names all")
        raise UsageError(f"model.model_name={name}: no such model; {known}")
    cfg = timm.get_pretrained_cfg(name)
    return cfg.to_dict() if cfg else {}


def without_start(cfg: dict[str, Any]) -> dict[str, Any]:
    """The settings without initial weights: a resumed run has its own, and the initial file may be gone."""
    model = {key: value for key, value in cfg["model"].items() if key != "start"}
    return {**cfg, "model": model | {"pretrained": False}}


def create_model(options: dict[str, Any], file: str = "+model.start=FILE") -> nn.Module:
    """``timm.create_model(**options)``.

    Args:
        options: keyword arguments of ``timm.create_model``.
        file: the word or flag by which this command takes a weight file, for the message.

    Raises:
        UsageError: the model refuses an argument, or its weights are not available.
    """
    given = (options.get("pretrained_cfg_overlay") or {}).get("file")
    if given and not Path(given).exists():
        raise UsageError(f"model {options['model_name']}: {given}: no such file")
    name, rest = options["model_name"], {key: value for key, value in options.items() if key != "model_name"}
    try:
        return created(name, rest, f"give a file instead: {file}")
    except (CheckpointError, UsageError) as error:
        refused = isinstance(error, CheckpointError) or str(error).startswith(f"{name}: ")
        if refused and not isinstance(error.__cause__, MissingWeightsError):
            raise UsageError(f"model {error}") from error
        raise


def resized(name: str, model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize weights that depend on the image size (position embeddings) by the model's own checkpoint filter."""
    own = model.state_dict()
    if ":" in name or all(own[key].shape == weight.shape for key, weight in weights.items() if key in own):
        return weights
    module = sys.modules[timm.model_entrypoint(name).__module__]
    fit = getattr(module, "checkpoint_filter_fn", None)  # timm's convention
    return weights if fit is None else fit(weights, model)
