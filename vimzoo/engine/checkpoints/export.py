"""Exports the model of a finished run to a folder for ``timm.create_model("local-dir:...")``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import nn

from vimzoo.data import Splits
from vimzoo.models.weights.saving import save_for_hf

from ..create import without_start
from ..state import State
from . import sharded


def whole_model(state: State, cfg: dict[str, Any], data: Splits) -> nn.Module:
    """The evaluated model in evaluation mode; a sharded one gathered into process 0. All processes call it."""
    if not state.sharded:
        return state.averaged.eval()
    weights = sharded.whole_weights(state.averaged)
    if not state.world.main:
        return state.averaged
    model = state.task.build_model(without_start(cfg), data)
    model.load_state_dict(weights)
    return model.to(state.device).eval()


def save(model: nn.Module, data: Splits, folder: Path) -> None:
    """``config.json`` and ``model.safetensors`` as timm and the Hugging Face hub have them.

    They carry the size and normalisation of ``data`` and its class names. A model that timm cannot describe,
    because it was not made by ``timm.create_model`` or has arguments that JSON lacks, is not exported, with a message.
    """
    labels = {"num_classes": len(data.classes), "label_names": list(data.classes)} if data.classes else {}
    inputs = {"input_size": data.input_size, "mean": data.mean, "std": data.std, "crop_pct": data.crop_pct}
    try:
        save_for_hf(model, folder, {"pretrained_cfg": labels}, data_config=inputs)
    except (AttributeError, ValueError) as error:
        print(f"{folder.name}/ is left out: {error}", file=sys.stderr)
