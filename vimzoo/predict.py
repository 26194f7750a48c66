"""Predict the classes of images: ``python -m vimzoo.predict IMAGE_OR_FOLDER ... [--model RUN_OR_NAME]``.

A model of clips predicts the classes of films. A segmentation model predicts the class of each pixel;
``--masks FOLDER`` says where the masks are written.

Started by torchrun, the processes share the images, and process 0 prints all results in order. The exit status is
1 if an image could not be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .commands import Exit, Parser, run_command
from .data.inputs import clip_frames
from .data.masks.volumes import PLANES
from .engine.build import pick_device
from .engine.finished import newest_run
from .engine.mask_files import predicted_masks
from .engine.predicting import check_paths, classifier, image_files, load_model, predictions
from .engine.processes.devices import add_devices
from .engine.processes.parallel import World
from .engine.processes.ray_data import add_engine
from .engine.processes.ray_predictions import on_ray
from .engine.processes.sharing import in_turn, share, shared_command
from .errors import UsageError
from .exporting.running import RUNNERS, RUNTIME_HELP, ClassifierFile
from .models import SegmentationModel

__all__ = ["check_paths", "classifier", "image_files", "load_model", "main", "parser", "predictions"]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = Parser(
        prog="python -m vimzoo.predict", description="Predict the classes of images, or of their pixels."
    )
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="image files, or folders of images at any depth; films for a model of clips; with --engine ray one folder "
        "or URL",
    )
    command.add_argument(
        "--model",
        help="a name, a folder, hf-hub:OWNER/NAME, or an exported file (default: the newest run below outputs/)",
    )
    command.add_argument("--runtime", choices=RUNNERS, help=RUNTIME_HELP)
    command.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights file, with --model NAME")
    command.add_argument("--top", type=int, default=5, help="number of classes per image (default: 5)")
    command.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="where the masks of a segmentation model are written, as PNG, or NIfTI for volumes",
    )
    command.add_argument(
        "--plane", choices=PLANES, default="axial", help="of the slices of volumes (default: axial)"
    )
    command.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="intensities of volumes that become black and white, as in training (default: percentiles 0.5 and 99.5)",
    )
    command.add_argument(
        "--views",
        type=int,
        nargs=2,
        metavar=("CLIPS", "CROPS"),
        help="clips of a film, spread over it, and crops of each along the long side, whose probabilities are averaged "
        "(default: 1 1)",
    )
    command.add_argument("--batch", type=int, default=32, help="images or clips per batch (default: 32)")
    device = command.add_mutually_exclusive_group()
    device.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add_devices(device)
    command.add_argument(
        "--as-stored", action="store_true", help="ignore the EXIF orientation of photographs"
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON per image")
    add_engine(command)
    command.add_argument(
        "--output", metavar="FOLDER_OR_URL", help="where Parquet files are written, with --engine ray"
    )
    return command


def command(asked: argparse.Namespace, world: World) -> int:
    """Predict as the parsed arguments say, and print; returns the exit status.

    Raises:
        UsageError: the request cannot be met.
    """
    if min(asked.top, asked.batch, *(asked.views or ())) < 1:
        views = "" if asked.views is None else f" --views={' '.join(map(str, asked.views))}"
        raise UsageError(f"--top={asked.top} --batch={asked.batch}{views}: expected at least 1")
    if (asked.engine is None) != (asked.output is None):
        raise UsageError("--output, --engine: expected both or neither")
    if asked.engine is not None:
        return on_ray(asked)
    paths = [Path(name) for name in asked.images]
    world.first(lambda: check_paths(paths))
    device = in_turn(lambda: pick_device(asked.device, world.local_rank, "--device "), world)
    if asked.model is None and not asked.checkpoint and asked.runtime is None:
        asked.model = world.first(lambda: str(newest_run()))
    model = in_turn(lambda: load_model(asked.model, asked.checkpoint, asked.runtime, asked.device), world)
    if isinstance(model, ClassifierFile):
        device = torch.device("cpu")
    segments = isinstance(model, SegmentationModel)
    if segments != (asked.masks is not None):
        what = (
            "a segmentation model; expected --masks FOLDER"
            if segments
            else "no segmentation model, for --masks"
        )
        raise UsageError(f"--model {asked.model}: {type(model).__name__} is {what}")
    films = clip_frames(model) is not None
    if asked.views is not None and not films:
        raise UsageError(f"--views {asked.views[0]} {asked.views[1]}: expected with a model of clips")
    files: list[Path] = []  # of process 0; the others get their parts from it
    world.first(lambda: files.extend(image_files(paths, films, segments)))
    shared = partial(share, world=world)
    if isinstance(model, SegmentationModel):
        if asked.window is not None and not asked.window[0] < asked.window[1]:
            raise UsageError(f"--window {asked.window[0]} {asked.window[1]}: expected the lower one first")
        answers = predicted_masks(
            model, files, asked.masks, device, not asked.as_stored, shared, asked.plane, asked.window
        )
    else:
        clips, crops = asked.views or (1, 1)
        answers = predictions(
            model, files, asked.top, asked.batch, device, not asked.as_stored, shared, views=(clips, crops)
        )
    done = failed = 0
    try:
        for answer in answers:
            if asked.json:
                print(json.dumps(answer))
            else:
                print(line(answer), file=sys.stderr if "error" in answer else sys.stdout)
            done, failed = done + 1, failed + ("error" in answer)
    except KeyboardInterrupt:
        if world.main:
            sys.stdout.flush()
            said = f"interrupted: {done} of {len(files)} predicted; the same command begins again"
            print(said, file=sys.stderr)
        return Exit.INTERRUPTED
    return Exit.FAILED if failed else Exit.OK


def line(answer: Mapping[str, Any]) -> str:
    """What is printed for an image: classes in per cent, or what is wrong."""
    if "error" in answer:
        return f"{answer['file']}: {answer['error']}"
    if "mask" in answer:
        shares = answer["classes"].items()
    else:
        shares = ((found["class"], found["probability"]) for found in answer["classes"])
    said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares)
    return "  ".join([answer["file"], *filter(None, [answer.get("mask")]), said])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return shared_command(parser().parse_intermixed_args, arguments, command, "vimzoo.predict")


if __name__ == "__main__":
    run_command(main, tidies=True)
