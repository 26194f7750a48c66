"""Exported files in the place of models that are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vimzoo.data import Splits
from vimzoo.errors import UsageError

from .running import ClassifierFile, RestorationFile, chosen_runtime, opened_file


@dataclass(frozen=True)
class EvaluatedFile:
    """A file that `vimzoo.export` wrote, and what runs it.

    Attributes:
        path: The file.
        runtime: One of `vimzoo.exporting.running.RUNNERS`.
    """

    path: Path
    runtime: str

    @classmethod
    def chosen(cls, given: str | None, runtime: str | None, routing: str | None) -> EvaluatedFile | None:
        """The file that a user's ``--model`` and ``--runtime`` mean; None if they mean a model for PyTorch.

        Raises:
            UsageError: there is no file that the runtime reads, or ``--routing`` is given with a file.
        """
        found = chosen_runtime(given, runtime)
        if given is None or found is None:
            return None
        if routing:
            raise UsageError(
                f"--routing {routing}: {given} is an exported file, for which this cannot be chosen"
            )
        return cls(Path(given), found)

    def open(self, cfg: dict[str, Any], amp: torch.dtype | None) -> ClassifierFile | RestorationFile:
        """The file as a model that computes as the settings say.

        Args:
            cfg: The settings of the evaluation.
            amp: The type that ``run.amp`` means.

        Raises:
            UsageError: the file is for another task, takes one size only although its images have many, or cannot be
                run on this device or in this type; see also `vimzoo.exporting.running.opened_file`.
        """
        if (device := cfg["run"]["device"]) not in ("auto", "cpu"):
            raise UsageError(f"run.device={device}: {self.path} is an exported file; expected auto or cpu")
        model = opened_file(self.path, self.runtime, amp or torch.float32, f"run.amp={cfg['run']['amp']}")
        restores = isinstance(model, RestorationFile)
        if cfg["task"] != ("restore" if restores else "classify"):
            kind = "a restoration model" if restores else "a classifier"
            raise UsageError(f"--model {self.path}: {kind}; expected a file for task={cfg['task']}")
        if restores and model.sides != (None, None):
            raise UsageError(
                f"--model {self.path}: takes images of {_size(model.sides)} only; expected a file for any size "
                "(--size dynamic)"
            )
        return model

    def check(self, model: ClassifierFile | RestorationFile, data: Splits) -> None:
        """Check that the file can take the data and name their classes.

        Raises:
            UsageError: channels, sizes, the scale or the number of classes differ.
        """
        where = f"{self.path}, the data ({data.name})"
        if isinstance(model, RestorationFile):
            channels, scale = model.in_chans, model.scale
            if scale != data.scale:
                raise UsageError(f"--model {where}: expected one scale, got {scale} and {data.scale}")
        else:
            channels = model.pretrained_cfg["input_size"][0]
            if data.classes and len(data.classes) != model.num_classes:
                raise UsageError(
                    f"--model {where}: expected as many classes, got {model.num_classes} and {len(data.classes)}"
                )
            sides = zip(model.sides, data.input_size[1:], strict=True)
            if any(side not in (None, given) for side, given in sides):
                raise UsageError(
                    f"data.img_size: {self.path} takes images of {_size(model.sides)} only, got "
                    f"{_size(data.input_size[1:])}"
                )
        if channels != data.input_size[0]:
            raise UsageError(
                f"--model {where}: expected as many channels, got {channels} and {data.input_size[0]}"
            )


def _size(sides: tuple[int | None, ...]) -> str:
    return " x ".join(map(str, sides)) + " pixels"
