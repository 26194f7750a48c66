"""``timm.create_model`` with errors that name the setting."""

from __future__ import annotations

import difflib
import pickle
import sys
from typing import Any

import timm
from torch import Tensor, nn

from ..data import UsageError


def model_cfg(name: str) -> dict[str, Any]:
    """timm's pretrained_cfg of a registered model; empty for ``hf-hub:`` and ``local-dir:`` names.

    Raises:
        UsageError: no such model, with the nearest names.
    """
    if ":" in name:
        return {}
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 5)
        hint = f"; near it: {', '.join(near)}" if near else "; timm.list_models() names all"
        raise UsageError(f"model.model_name={name}: no such model{hint}")
    cfg = timm.get_pretrained_cfg(name)
    return cfg.to_dict() if cfg else {}


def without_start(cfg: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run whose weights come from its own checkpoint: what it started from may be gone."""
    model = {key: value for key, value in cfg["model"].items() if key != "start"}
    return {**cfg, "model": model | {"pretrained": False}}


def create_model(options: dict[str, Any]) -> nn.Module:
    """``timm.create_model(**options)``.

    Raises:
        UsageError: the model refuses an argument, or its weights cannot be had.
    """
    try:
        return timm.create_model(**options)
    except (TypeError, ValueError, AssertionError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"model {options}: {error}") from error


def resized(name: str, model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of another image size, such as position embeddings, as timm's filter for that model resizes them."""
    own = model.state_dict()
    if ":" in name or all(own[key].shape == weight.shape for key, weight in weights.items() if key in own):
        return weights
    module = sys.modules[timm.model_entrypoint(name).__module__]
    fit = getattr(module, "checkpoint_filter_fn", None)  # timm's convention
    return weights if fit is None else fit(weights, model)
