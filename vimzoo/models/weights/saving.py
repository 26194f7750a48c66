"""Folders of weights as the Hugging Face hub holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vimzoo.files import unfinished

__all__ = ["save_for_hf"]


def save_for_hf(
    model: nn.Module, folder: str | Path, model_config: dict[str, Any] | None = None, **options: Any
) -> None:
    """Write ``config.json`` and ``model.safetensors``, for ``timm`` and for ``transformers``.

    timm 1.0.31 repeats the number of classes among ``model_args``, which ``transformers`` passes on beside its own
    ``num_classes``: ``AutoModelForImageClassification`` then ends in a TypeError. It is left out there; timm takes it
    from ``pretrained_cfg``.

    Args:
        model: made by ``timm.create_model``.
        folder: made if it does not exist.
        model_config, options: as ``timm.models.save_for_hf`` takes them.

    Raises:
        AttributeError: the model was not made by ``timm.create_model``.
        ValueError: an argument of the model cannot be written as JSON.
    """
    timm.models.save_for_hf(model, str(folder), model_config, safe_serialization=True, **options)
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    with unfinished(path) as part:
        part.write_text(json.dumps(config, indent=2), encoding="utf-8")
