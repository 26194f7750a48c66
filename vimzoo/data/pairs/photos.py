"""Photographs bundled with scikit-image and scikit-learn: enough to learn restoration from without a download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..splits import Splits
from .degradations import Degradation
from .settings import PairSettings

__all__ = ["PHOTOS", "bundled_photos", "photo_files"]

PHOTOS: dict[str, tuple[str, ...]] = {
    "train": (
        "skimage/data/astronaut.png", "skimage/data/hubble_deep_field.jpg", "sklearn/datasets/images/flower.jpg",
        "skimage/data/motorcycle_left.png", "skimage/data/motorcycle_right.png", "skimage/data/ihc.png",
        "skimage/data/retina.jpg", "skimage/data/camera.png", "skimage/data/moon.png", "skimage/data/brick.png",
        "skimage/data/grass.png", "skimage/data/gravel.png", "skimage/data/coins.png",
    ),
    "val": ("skimage/data/rocket.jpg", "sklearn/datasets/images/china.jpg"),
    "test": ("skimage/data/chelsea.png", "skimage/data/coffee.png"),
}  # fmt: skip
"""Files by split. They lie in the wheels; scikit-image's other pictures would be fetched from the network."""


def photo_files(split: str) -> list[Path]:
    """The files of a split of `PHOTOS`.

    Raises:
        UsageError: scikit-image or scikit-learn is missing, or comes without one of them.
    """
    found = []
    for name in PHOTOS[split]:
        package, rest = name.split("/", 1)
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise UsageError(f"data=photos needs {package}; install it with: pip install 'vimzoo[train]'")
        found.append(Path(spec.origin).parent / rest)
        if not found[-1].is_file():
            raise UsageError(f"data=photos: this version of {package} does not bring {rest}; 0.26 and 1.9 do")
    return found


def bundled_photos(
    scale: int = 1,
    sigma: float = 0.0,
    quality: int | None = None,
    rounded: bool = False,
    crop: int = 64,
    crops: int = 3200,
    eval_crop: int | None = None,
    **options: Any,
) -> Splits:
    """The bundled photographs, split by photograph, degraded as they are read.

    Args:
        scale, sigma, quality, rounded: What is to be undone, see `vimzoo.data.pairs.degradations.Degradation`.
        crop, crops, eval_crop, options: Of `vimzoo.data.pairs.settings.PairSettings`.

    Raises:
        UsageError: an option does not fit, or a photograph is missing.
    """
    settings = PairSettings(crop=crop, crops=crops, eval_crop=eval_crop, **options)
    return settings.splits(
        "photographs (bundled with scikit-image and scikit-learn)",
        [(None, photo_files(split)) for split in PHOTOS],
        scale,
        Degradation(scale, sigma, quality, rounded),
    )
