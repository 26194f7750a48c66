"""Name what is on images: ``python -m vimzoo.predict IMAGE_OR_FOLDER ... [--model RUN_OR_NAME]``.

Started by torchrun, the processes share the images, and process 0 prints all results in order.

Exit status 0, 1 if an image could not be read, 2 if the request cannot be met.
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

import timm
import torch
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch import nn

from .commands import run_command
from .data.images.decode import DAMAGED, MODES, read_image
from .data.images.files import find_pictures
from .engine.build import pick_device
from .engine.classes import file_options
from .engine.create import create_model
from .engine.finished import newest_run
from .engine.processes.parallel import World
from .engine.processes.sharing import in_turn, share, shared_command
from .errors import UsageError


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog="python -m vimzoo.predict", description="The likeliest classes of images."
    )
    command.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="folders with all below them"
    )
    command.add_argument(
        "--model", help="a run folder or a model's name (default: the newest run below outputs/)"
    )
    command.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights for a model's name")
    command.add_argument("--top", type=int, default=5, help="classes for each image (default: 5)")
    command.add_argument("--batch", type=int, default=32, help="images at once (default: 32)")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    command.add_argument(
        "--as-stored", action="store_true", help="do not turn photographs as their EXIF orientation says"
    )
    command.add_argument("--json", action="store_true", help="one JSON object per image and line")
    return command


def load_model(name: str | None, checkpoint: Path | None = None) -> nn.Module:
    """The model of a run folder, or a registered one with published weights or those of a file.

    Raises:
        UsageError: there is no such run or model, or it tells no classes.
    """
    if name is None or Path(name).is_dir():
        if checkpoint:
            raise UsageError(
                f"--checkpoint={checkpoint}: expected with --model NAME; a run has weights of its own"
            )
        folder = (newest_run() if name is None else Path(name)) / "model"
        if not (folder / "config.json").is_file():
            raise UsageError(f"{folder}: no config.json; expected the folder of a finished run")
        name = f"local-dir:{folder}"
    elif ":" not in name and not timm.is_model(name):
        raise UsageError(f"--model={name}: neither a folder nor a model; timm.list_models() names all models")
    options = file_options(checkpoint) if checkpoint else {"pretrained": True}
    model = create_model({"model_name": name, **options}, "--checkpoint FILE")
    if not getattr(model, "num_classes", 0):
        raise UsageError(f"--model={name}: {type(model).__name__} tells no classes; expected a classifier")
    return model


def class_names(model: Any) -> list[str]:
    """By class number: what the weights say, ImageNet's names for 1000 classes, else numbers."""
    if names := model.pretrained_cfg.get("label_names"):
        return list(names)
    if model.num_classes == 1000:
        info = ImageNetInfo()
        return [info.index_to_description(index) for index in range(1000)]
    return [str(index) for index in range(model.num_classes)]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, and every picture below folders, as training reads them; says what is left out there.

    Raises:
        UsageError: one does not exist, or no image is found.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if not path.is_dir():
            files.append(path)
            continue
        found = find_pictures(path)
        files += [path / name for name in found.files]
        if left := found.left_out():
            print(f"{path}: {left}", file=sys.stderr)
    if not files:
        raise UsageError(f"no images under {', '.join(map(str, paths))}")
    return files


def predictions(
    model: nn.Module,
    files: Sequence[Path],
    top: int = 5,
    batch: int = 32,
    device: torch.device | str = "cpu",
    upright: bool = True,
    shared: Callable[..., Iterator[list[dict[str, Any]]]] = map,
) -> Iterator[dict[str, Any]]:
    """For each file ``{"file", "classes": [{"class", "probability"}, ...]}``, or ``{"file", "error"}``.

    Images are prepared as the model's weights want them, and turned ``upright`` as their EXIF orientation says.

    Args:
        shared: ``map``, or what divides the batches over processes as `vimzoo.engine.processes.sharing.share` does.
    """
    names, inputs = class_names(model), resolve_model_data_config(model)
    transform = create_transform(**inputs, is_training=False)
    mode = MODES.get(inputs["input_size"][0], "RGB")
    model = model.to(device).eval()

    @torch.inference_mode()
    def answered(part: Sequence[Path]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{"file": str(file)} for file in part]
        images = []
        for answer in answers:
            try:
                images.append(transform(read_image(answer["file"], mode, upright)))
            except DAMAGED as error:
                answer["error"] = str(error)
        if images:
            ranked = model(torch.stack(images).to(device)).float().softmax(dim=1).topk(min(top, len(names)))
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
    if min(asked.top, asked.batch) < 1:
        raise UsageError(f"--top={asked.top} --batch={asked.batch}: expected at least 1")
    files: list[Path] = []  # of process 0; the others get their parts from it
    world.first(lambda: files.extend(image_files(asked.images)))
    device = in_turn(lambda: pick_device(asked.device, world.local_rank), world)
    if asked.model is None and not asked.checkpoint:
        asked.model = world.first(lambda: str(newest_run()))
    model = in_turn(lambda: load_model(asked.model, asked.checkpoint), world)
    failed = 0
    shared = partial(share, world=world)
    for answer in predictions(model, files, asked.top, asked.batch, device, not asked.as_stored, shared):
        failed += "error" in answer
        if asked.json:
            print(json.dumps(answer))
        elif "error" in answer:
            print(f"{answer['file']}: {answer['error']}", file=sys.stderr)
        else:
            said = ", ".join(f"{c['class']} {100 * c['probability']:.1f} %" for c in answer["classes"])
            print(f"{answer['file']}  {said}")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return shared_command(parser().parse_intermixed_args, arguments, command)


if __name__ == "__main__":
    run_command(main)
