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
from vimzoo.data.masks.volumes import PLANES, cut, is_volume, pixels_of, save_labels
from vimzoo.errors import UsageError
from vimzoo.files import unfinished
from vimzoo.models import SegmentationModel
from vimzoo.models.weights.class_names import of_model
from vimzoo.segmentation import palette

from .tasks.segmentation import predicted

__all__ = ["mask_names", "predicted_masks", "save_mask"]


def mask_names(files: Sequence[Path], out: Path) -> list[Path]:
    """A file in the folder ``out`` for every image: PNG, or for a volume NIfTI, compressed as the volume is.

    Raises:
        UsageError: two images would have the same one, or an image would be replaced.
    """
    names = [out / (file.name if is_volume(file) else f"{file.stem}.png") for file in files]
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
    plane: str = "axial",
    window: Sequence[float] | None = None,
) -> Iterator[dict[str, Any]]:
    """For each file ``{"file", "mask", "classes": {name: share of the pixels}}``, or ``{"file", "error"}``.

    Images are resized to the model's size, unless it reads windows; masks have the size of the images. Of volumes every
    slice is predicted; their masks are volumes on the same grid.

    Args:
        model: On any device.
        files: Images.
        out: The folder to write to.
        device: Where the model runs.
        upright: Turn images by their EXIF orientation.
        shared: ``map``, or a function like it that divides the files over processes.
        plane, window: Of volumes, as `vimzoo.data.mask_folder` takes them.

    Raises:
        UsageError: see `mask_names`.
    """
    names, inputs = of_model(model), resolve_model_data_config(model)
    targets = mask_names(files, out)
    mode = MODES.get(inputs["input_size"][0], "RGB")
    mean, std = (torch.tensor(inputs[key]).view(-1, 1, 1) for key in ("mean", "std"))
    model = model.to(device).eval()
    out.mkdir(parents=True, exist_ok=True)

    def of_image(image: Image.Image) -> np.ndarray:
        size = image.height, image.width
        if model.window is None:
            image = image.resize(inputs["input_size"][:0:-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).float().reshape(image.height, image.width, -1)
        given = ((pixels.permute(2, 0, 1) / 255 - mean) / std)[None].to(device)
        return predicted(model, given, size)[0].cpu().numpy()

    def of_volume(file: Path) -> np.ndarray:
        whole, axis = pixels_of(file, window), PLANES[plane]
        slices = (
            Image.fromarray(np.ascontiguousarray(cut(whole, plane, i))) for i in range(whole.shape[axis])
        )
        return np.stack([of_image(part.convert(mode)).T for part in slices], axis=axis)

    @torch.inference_mode()
    def answered(pair: tuple[Path, Path]) -> dict[str, Any]:
        file, target = pair
        try:
            mask = of_volume(file) if is_volume(file) else of_image(read_image(str(file), mode, upright))
        except (UsageError, *DAMAGED) as error:
            return {"file": str(file), "error": str(error)}
        if is_volume(file):
            save_labels(mask, file, target)
        else:
            save_mask(mask, target)
        shares = np.bincount(mask.ravel(), minlength=len(names)) / mask.size
        found = {name: share for name, share in zip(names, shares.tolist(), strict=True) if share}
        return {"file": str(file), "mask": str(target), "classes": found}

    yield from shared(answered, list(zip(files, targets, strict=True)))
