"""Models of two pictures, as the tasks fuse and sharpen build them."""

from __future__ import annotations

from typing import Any

from torch import nn

from vimzoo.data import Splits
from vimzoo.errors import UsageError
from vimzoo.models import CheckpointError
from vimzoo.models.inputs import ModelWithInputs

from .create import create_model

__all__ = ["build_model", "check_unmixed"]


def build_model(cfg: dict[str, Any], data: Splits, task: str, inputs: tuple[str, ...]) -> nn.Module:
    """``timm.create_model(**model)`` with the channels of the data; ``model.start`` is a file of weights.

    Args:
        cfg: The configuration.
        data: What to train or to be evaluated on.
        task: Its name, for errors.
        inputs: Those of the task's models, by name.

    Raises:
        UsageError: the model has other inputs, channels or another scale than the data, or refuses an argument; the
            file does not fit.
    """
    options = {key: value for key, value in cfg["model"].items() if key not in ("num_classes", "start")}
    options.setdefault("in_chans", data.input_size[0])
    model: Any = create_model(options)
    name = options["model_name"]
    if not isinstance(model, ModelWithInputs) or tuple(model.inputs) != inputs:
        raise UsageError(f"model.model_name={name}: task={task} needs a model of {' and '.join(inputs)}")
    if (scale := list(model.inputs.values())[1].scale) != data.scale:
        raise UsageError(
            f"model.model_name={name} takes a picture {scale} times as large as the other, the data ({data.name}) have "
            f"one {data.scale} times as large; set model.scale or give other data"
        )
    for given, (what, expected) in zip(data.val[0][0], model.inputs.items(), strict=True):
        if len(given) != expected.first[0]:
            raise UsageError(
                f"model.model_name={name} takes {expected.first[0]} bands as {what}, the data ({data.name}) have "
                f"{len(given)}"
            )
    if (start := cfg["model"].get("start")) is not None:
        try:
            model.load_pretrained(start)
        except (OSError, CheckpointError) as error:
            raise UsageError(f"model.start: {error}") from error
    return model


def check_unmixed(cfg: dict[str, Any], task: str) -> None:
    """Check that ``aug.mixup`` mixes nothing.

    Raises:
        UsageError: it does.
    """
    for key, value in (cfg["aug"].get("mixup") or {}).items():
        if value and key != "prob":
            raise UsageError(f"aug.mixup.{key}={value}: task={task} mixes no pictures")
