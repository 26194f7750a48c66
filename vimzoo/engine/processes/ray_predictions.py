"""Predictions over a cluster of Ray, in Parquet files."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from vimzoo.commands import Exit
from vimzoo.data.inputs import clip_frames
from vimzoo.errors import UsageError
from vimzoo.exporting.running import ClassifierFile
from vimzoo.models import SegmentationModel

from ..build import pick_device
from ..finished import newest_run
from ..predicting import load_model, predictions
from .ray_data import Do, over_cluster

__all__ = ["on_ray"]


def on_ray(asked: argparse.Namespace) -> int:
    """Predict over a cluster of Ray into Parquet files, and print a summary; returns the exit status.

    Raises:
        UsageError: the request cannot be met.
    """
    from tqdm import tqdm

    from .parquet import PredictionFolder, model_digest

    if len(asked.images) != 1:
        raise UsageError(f"{' '.join(asked.images)}: expected one folder or URL with --engine ray")
    if asked.device != "auto":
        raise UsageError(f"--device {asked.device}: expected without --engine ray, which chooses the devices")
    if asked.model is None and asked.runtime is None:
        asked.model = str(newest_run())
    model = load_model(asked.model, asked.checkpoint, asked.runtime)
    if isinstance(model, SegmentationModel):
        raise UsageError(
            f"--model {asked.model}: a segmentation model; expected --masks FOLDER without --engine ray"
        )
    if clip_frames(model) is not None:
        raise UsageError(f"--model {asked.model}: a model of clips; expected without --engine ray")
    if isinstance(model, ClassifierFile):
        raise UsageError(
            f"--model {asked.model}: an exported file; expected a model for PyTorch with --engine ray"
        )
    about = {"model": model_digest(model), "top": str(asked.top), "as_stored": str(asked.as_stored)}
    folder = PredictionFolder(asked.images[0], asked.output, about)
    names, skipped = folder.find()
    failed = []
    with tqdm(total=len(names), unit="image", disable=None) as bar:
        for name, reason in (
            over_cluster(partial(_on_ray, asked, folder), names, asked.workers) if names else ()
        ):
            if reason:
                failed.append(f"{name}: {reason}")
            bar.update()
    print(
        f"{len(names) - len(failed)} predicted"
        + (f", {skipped} skipped, as they are in {asked.output}" if skipped else "")
        + (f", {len(failed)} failed" if failed else "")
    )
    for line in failed:
        print(line, file=sys.stderr)
    return Exit.FAILED if failed else Exit.OK


def _on_ray(asked: argparse.Namespace, folder: Any) -> Do:
    """What a worker of Ray does with the names of images."""
    device = pick_device("auto", 0, "--device ")
    model = load_model(asked.model, asked.checkpoint)
    predict = partial(
        predictions, model, top=asked.top, batch=asked.batch, device=device, upright=not asked.as_stored
    )
    return partial(folder.predict, predict=predict)
