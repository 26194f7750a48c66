"""Predict the classes of images: ``python -m vimzoo.predict IMAGE_OR_FOLDER ... [--model RUN_OR_NAME]``.

A model of clips predicts the classes of films. A segmentation model predicts the class of each pixel;
``--masks FOLDER`` says where the masks are written.

Started by torchrun, the processes share the images, and process 0 prints all results in order. The exit status is
1 if an image could not be read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .commands import Exit, Parser, run_command
from .data.images.decode import DAMAGED
from .data.images.files import SUFFIXES, find_pictures
from .data.inputs import clip_frames, model_inputs
from .data.masks.volumes import PLANES, VOLUME_SUFFIXES
from .engine.build import pick_device
from .engine.finished import newest_run
from .engine.mask_files import predicted_masks
from .engine.processes.devices import add_devices
from .engine.processes.parallel import World
from .engine.processes.ray_data import Do, add_engine, over_cluster
from .engine.processes.sharing import in_turn, share, shared_command
from .errors import UsageError
from .exporting.running import RUNNERS, RUNTIME_HELP, ClassifierFile, exported
from .film import SUFFIXES as FILMS
from .models import SegmentationModel
from .models.opening import open_model
from .models.weights.class_names import of_model


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
    failed = 0
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
    for answer in answers:
        failed += "error" in answer
        if asked.json:
            print(json.dumps(answer))
        elif "error" in answer:
            print(f"{answer['file']}: {answer['error']}", file=sys.stderr)
        elif segments:
            said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in answer["classes"].items())
            print(f"{answer['file']}  {answer['mask']}  {said}")
        else:
            said = ", ".join(f"{c['class']} {100 * c['probability']:.1f} %" for c in answer["classes"])
            print(f"{answer['file']}  {said}")
    return Exit.FAILED if failed else Exit.OK


def on_ray(asked: argparse.Namespace) -> int:
    """Predict over a cluster of Ray into Parquet files, and print a summary; returns the exit status.

    Raises:
        UsageError: the request cannot be met.
    """
    from tqdm import tqdm

    from .engine.processes.parquet import PredictionFolder, model_digest

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return shared_command(parser().parse_intermixed_args, arguments, command, "vimzoo.predict")


if __name__ == "__main__":
    run_command(main)
