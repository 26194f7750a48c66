"""Class names of weights: those that a file carries, and those of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo

Names = tuple[str, ...]


def of_file(path: Path) -> Names | None:
    """Class names that a weight file carries, or that stand beside it in a model folder; None if unknown."""
    try:
        if path.suffix == ".safetensors":
            content = json.loads((path.parent / "config.json").read_text())
        else:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["data"]
        names = (
            content.get("classes") or content.get("label_names") or content["pretrained_cfg"]["label_names"]
        )
        return tuple(map(str, names))
    except Exception:  # another kind of file, with whatever its reader raises; loading it reports damage
        return None


def file_options(path: Path) -> dict[str, Any]:
    """Options of ``timm.create_model`` that read a file of weights, whole and with the classes that it names."""
    overlay: dict[str, Any] = {"file": str(path)}
    options: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    if names := of_file(path):
        overlay |= {"label_names": names, "num_classes": len(names)}
        options["num_classes"] = len(names)
    return options


def of_model(model: Any) -> list[str]:
    """Names by class number: what the weights say, ImageNet's descriptions for 1000 classes, else the numbers."""
    if names := getattr(model, "pretrained_cfg", {}).get("label_names"):
        return list(names)
    if model.num_classes == 1000:
        info = ImageNetInfo()
        return [info.index_to_description(index) for index in range(1000)]
    return [str(index) for index in range(model.num_classes)]
