"""Class names of weights, and matching models to data by class name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo
from torch import nn

from vimzoo.data import Splits
from vimzoo.data.images.classes import listed, numbered_as
from vimzoo.models.weights.class_names import Names, of_file

from .checkpoints import checkpoint
from .create import create_model, model_cfg

IMAGENET = 1000  # classes of the published weights, named by WordNet ids


def of_run(run: Path) -> Names | None:
    """Class names of a run folder's best weights; None for an old run that stopped before it was finished."""
    return of_file(run / checkpoint.BEST) or of_file(run / "model" / "model.safetensors")


def of_weights(options: Mapping[str, Any]) -> Names | None:
    """Class names of the weights that ``options`` of ``timm.create_model`` begin with; None if there are none, or
    they name no classes.
    """
    name = options["model_name"]
    if start := options.get("start"):
        return of_file(Path(start))
    if not options.get("pretrained"):
        return None
    kind, _, place = name.partition(":")
    if kind == "local-dir":
        return of_file(Path(place) / "model.safetensors")
    if kind == "hf-hub":
        names = timm.models.load_model_config_from_hf(place)[0].get("label_names")
        return tuple(names) if names else None
    return imagenet_names() if model_cfg(name).get("num_classes") == IMAGENET else None


def imagenet_names() -> Names:
    """WordNet ids of ImageNet-1k by class number, as its folders are named."""
    return tuple(ImageNetInfo().label_names())


def run_data(data: Splits, run: Path) -> Splits:
    """The data numbered as a run's classes are.

    Raises:
        UsageError: the data have classes that the run does not know.
    """
    if not data.classes:
        return data
    if names := of_run(run):
        return numbered_as(data, names, str(run))
    warn(
        f"{run} has no record of its class names; its class numbers are taken to be those of the data: "
        f"{listed(data.classes)}"
    )
    return data


def published_data(data: Splits, options: Mapping[str, Any]) -> Splits:
    """The data numbered as the classes of the weights that ``options`` name; unchanged without weights.

    Raises:
        UsageError: the data have classes that the weights do not know.
    """
    if not (options.get("start") or options.get("pretrained")):
        return data
    return named_data(data, of_weights(options), str(options.get("start") or options["model_name"]))


def named_data(data: Splits, names: Names | None, owner: str) -> Splits:
    """The data numbered as a model's classes are.

    ImageNet's classes may also be folders 0 to 999. A model that names no classes is taken to have those of the data,
    which is logged.

    Args:
        data: With or without classes.
        names: The model's classes by number; None if it does not name them.
        owner: Of these names, for messages.

    Raises:
        UsageError: the data have classes that the model does not know.
    """
    if not data.classes:
        return data
    imagenet = imagenet_names()
    if names is None and set(data.classes) <= set(imagenet):
        names = imagenet
    if names is not None and names != imagenet:
        return numbered_as(data, names, owner)
    if all(name.isdecimal() and int(name) < IMAGENET for name in data.classes) and names:
        return numbered_as(replace(data, classes=tuple(names[int(n)] for n in data.classes)), names, owner)
    if names is None or (len(data.classes) == IMAGENET and not set(data.classes) & set(names)):
        warn(
            f"{owner} does not name its classes as the data do; they are matched by number: {listed(data.classes)}"
        )
        return data
    return numbered_as(data, names, owner)


def evaluated(options: Mapping[str, Any], data: Splits) -> dict[str, Any]:
    """Options of a model whose weights are to be evaluated: a file has to bring the classifier, which is left out of
    files for fine-tuning where it does not fit.
    """
    if not data.classes or not options.get("start"):
        return dict(options)
    return {**options, "pretrained_cfg_overlay": {"num_classes": len(data.classes)}}


def model_for(options: dict[str, Any], names: Names, classes: Sequence[str]) -> nn.Module:
    """A model with weights of the classes ``names``, its classifier included, which becomes one of ``classes``.

    Classes of one name keep their weights, the others begin anew.
    """
    overlay = {**options.get("pretrained_cfg_overlay", {}), "num_classes": len(names)}
    model = create_model({**options, "num_classes": len(names), "pretrained_cfg_overlay": overlay})
    if names == tuple(classes):
        return model
    old: Any = model.get_classifier()  # type: ignore[operator]
    model.reset_classifier(len(classes))  # type: ignore[operator]
    new: Any = model.get_classifier()  # type: ignore[operator]
    known = [(row, names.index(name)) for row, name in enumerate(classes) if name in names]
    if known and isinstance(old, nn.Module) and isinstance(new, nn.Module):
        rows, places = map(list, zip(*known, strict=True))
        with torch.no_grad():
            for one, other in zip(new.parameters(), old.parameters(), strict=True):
                one[rows] = other[places]
    else:  # nothing in common, or several classifiers
        known = []
    warn(
        f"the weights know {listed(names)}; the classifier is taken over for {len(known)} of {len(classes)} classes "
        "and is initialised for the others"
    )
    return model


def warn(message: str) -> None:
    """To stderr, from the first process alone."""
    if (
        not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
        or not torch.distributed.get_rank()
    ):
        print(f"warning: {message}", file=sys.stderr, flush=True)
