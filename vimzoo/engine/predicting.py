"""Classes of images and films as a model predicts them, and the files and models that commands mean."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vimzoo.data.images.decode import DAMAGED
from vimzoo.data.images.files import SUFFIXES, find_pictures
from vimzoo.data.inputs import model_inputs
from vimzoo.data.masks.volumes import VOLUME_SUFFIXES
from vimzoo.errors import UsageError
from vimzoo.exporting.running import exported
from vimzoo.film import SUFFIXES as FILMS
from vimzoo.models.opening import open_model
from vimzoo.models.weights.class_names import of_model

from .finished import newest_run

__all__ = ["check_paths", "classifier", "image_files", "load_model", "predictions"]


def load_model(
    name: str | None, checkpoint: Path | None = None, runtime: str | None = None, device: str = "auto"
) -> nn.Module:
    """A classifier, as `vimzoo.models.opening.open_model` opens it, or an exported file.

    Args:
        name: None is the newest run.
        checkpoint: Weights for a registered name.
        runtime: What runs an exported file.
        device: As the user gave it, for errors; the model is on the CPU.

    Raises:
        UsageError: there is no such model, or it is not a classifier.
    """
    elsewhere = None if device in ("auto", "cpu") else device
    file = exported(name, runtime, checkpoint=checkpoint, device=elsewhere)
    if file is not None:
        return classifier(file, name)
    if name is None and checkpoint is not None:
        raise UsageError(
            f"--checkpoint {checkpoint}: expected with --model NAME; a run has weights of its own"
        )
    return classifier(open_model(str(newest_run()) if name is None else name, checkpoint), name)


def classifier(model: nn.Module, name: str | None) -> nn.Module:
    """The model, if it is a classifier.

    Raises:
        UsageError: it is not.
    """
    if not getattr(model, "num_classes", 0):
        raise UsageError(f"--model {name}: {type(model).__name__} has no classes; expected a classifier")
    return model


def check_paths(paths: Sequence[Path]) -> None:
    """Check that files or folders exist.

    Raises:
        UsageError: one does not.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")


def image_files(paths: Sequence[Path], films: bool = False, volumes: bool = False) -> list[Path]:
    """The given files, and all images or films in the given folders as training reads them; reports skipped files.

    With ``volumes`` also NIfTI files.

    Raises:
        UsageError: a path does not exist, or there are no images or films.
    """
    files: list[Path] = []
    suffixes = FILMS if films else (*SUFFIXES, *VOLUME_SUFFIXES) if volumes else SUFFIXES
    check_paths(paths)
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = find_pictures(path, suffixes=suffixes)
        files += [path / name for name in found.files]
        if left := found.left_out():
            print(f"{path}: {left}", file=sys.stderr)
    if not files:
        raise UsageError(f"no {'films' if films else 'images'} under {', '.join(map(str, paths))}")
    return files


def predictions(
    model: nn.Module,
    files: Sequence[Path],
    top: int = 5,
    batch: int = 32,
    device: torch.device | str = "cpu",
    upright: bool = True,
    shared: Callable[..., Iterator[list[dict[str, Any]]]] = map,
    opened: Callable[[str], Any] = str,
    views: tuple[int, int] = (1, 1),
) -> Iterator[dict[str, Any]]:
    """For each file ``{"file", "classes": [{"class", "probability"}, ...]}``, or ``{"file", "error"}``.

    Images are preprocessed as the model's weights require, and turned ``upright`` by their EXIF orientation. Of a film
    for a model of clips, the probabilities of all views are averaged.

    Args:
        shared: ``map``, or a function like it that divides the batches over processes, such as
            `vimzoo.engine.processes.sharing.share`.
        opened: an image file's name -> what `read_image` reads.
        views: clips and crops of each that a film is seen in.
    """
    names, inputs = of_model(model), model_inputs(model, upright, opened, views)
    model = model.to(device).eval()
    batch = max(1, batch // inputs.views)

    @torch.inference_mode()
    def answered(part: Sequence[Path]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{"file": str(file)} for file in part]
        images = []
        for answer in answers:
            try:
                images.append(inputs.read(answer["file"]))
            except (*DAMAGED, UsageError) as error:
                answer["error"] = str(error)
        if images:
            found = model(torch.cat(images).to(device)).float().softmax(dim=1)
            ranked = found.unflatten(0, (-1, inputs.views)).mean(dim=1).topk(min(top, len(names)))
            rows = zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
            for answer in answers:
                if "error" in answer:
                    continue
                pairs = list(zip(*next(rows), strict=True))
                if any(math.isnan(p) for p, _ in pairs):
                    answer["error"] = "the model answered NaN; the weights may be damaged"
                else:
                    answer["classes"] = [{"class": names[i], "probability": p} for p, i in pairs]
        return answers

    for answers in shared(answered, [files[first : first + batch] for first in range(0, len(files), batch)]):
        yield from answers
