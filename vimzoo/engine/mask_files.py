"""Masks of images in files, as `vimzoo.predict` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import resolve_model_data_config

from vimzoo.data.images.decode import DAMAGED, MODES, read_image
from vimzoo.errors import UsageError
from vimzoo.files import unfinished
from vimzoo.models import SegmentationModel
from vimzoo.models.weights.class_names import of_model
from vimzoo.segmentation import palette

from .tasks.segmentation import predicted

__all__ = ["mask_names", "predicted_masks", "save_mask"]


def mask_names(files: Sequence[Path], out: Path) -> list[Path]:
    """A PNG file in the folder ``out`` for every image.

    Raises:
        UsageError: two images would have the same one, or an image would be replaced.
    """
    names = [out / f"{file.stem}.png" for file in files]
    first: dict[Path, Path] = {}
    for name, file in zip(names, files, strict=True):
        if name in first:
            raise UsageError(f"{first[name]} and {file}: both masks would be {name}; predict them one by one")
        if name.exists() and name.samefile(file):
            raise UsageError(f"--masks {out}: the mask of {file} would replace it; expected another folder")
        first[name] = file
    return names


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write class numbers (H, W) as a PNG file: with Pascal VOC's palette, or 16 bits where there are more than 256.

    `vimzoo.data.mask_folder` reads both as class numbers.
    """
    if mask.max(initial=0) < 256:
        image = Image.fromarray(mask.astype(np.uint8)).convert("P")
        image.putpalette(palette().tobytes())
    else:
        image = Image.fromarray(mask.astype(np.uint16))
    with unfinished(path) as part:
        image.save(part, "PNG")


def predicted_masks(
    model: SegmentationModel,
    files: Sequence[Path],
    out: Path,
    device: torch.device | str = "cpu",
    upright: bool = True,
    shared: Callable[..., Iterator[dict[str, Any]]] = map,
) -> Iterator[dict[str, Any]]:
    """For each file ``{"file", "mask", "classes": {name: share of the pixels}}``, or ``{"file", "error"}``.

    Images are resized to the model's size, unless it reads windows; masks have the size of the images.

    Args:
        model: On any device.
        files: Images.
        out: The folder to write to.
        device: Where the model runs.
        upright: Turn images by their EXIF orientation.
        shared: ``map``, or a function like it that divides the files over processes.

    Raises:
        UsageError: see `mask_names`.
    """
    names, inputs = of_model(model), resolve_model_data_config(model)
    targets = mask_names(files, out)
    mode = MODES.get(inputs["input_size"][0], "RGB")
    mean, std = (torch.tensor(inputs[key]).view(-1, 1, 1) for key in ("mean", "std"))
    model = model.to(device).eval()
    out.mkdir(parents=True, exist_ok=True)

    @torch.inference_mode()
    def answered(pair: tuple[Path, Path]) -> dict[str, Any]:
        file, target = pair
        try:
            image = read_image(str(file), mode, upright)
        except DAMAGED as error:
            return {"file": str(file), "error": str(error)}
        size = image.height, image.width
        if model.window is None:
            image = image.resize(inputs["input_size"][:0:-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).float().reshape(image.height, image.width, -1)
        mask = predicted(model, ((pixels.permute(2, 0, 1) / 255 - mean) / std)[None].to(device), size)[0]
        save_mask(mask.cpu().numpy(), target)
        shares = mask.flatten().bincount(minlength=len(names)).double() / mask.numel()
        found = {name: share for name, share in zip(names, shares.tolist(), strict=True) if share}
        return {"file": str(file), "mask": str(target), "classes": found}

    yield from shared(answered, list(zip(files, targets, strict=True)))
