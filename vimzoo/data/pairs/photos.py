"""The photographs that ship with scikit-image and scikit-learn, divided into splits."""

from importlib.util import find_spec
from pathlib import Path

from vimzoo.errors import UsageError

__all__ = ["PHOTOS", "photo_files"]

PHOTOS: dict[str, tuple[str, ...]] = {
    "train": (
        "skimage/data/astronaut.png", "skimage/data/hubble_deep_field.jpg", "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg", "skimage/data/ihc.png", "skimage/data/retina.jpg",
        "skimage/data/brick.png", "skimage/data/grass.png", "skimage/data/gravel.png", "skimage/data/coins.png",
    ),
    "val": ("skimage/data/rocket.jpg", "skimage/data/camera.png"),
    "test": ("skimage/data/chelsea.png", "skimage/data/coffee.png", "skimage/data/motorcycle_left.png"),
}  # fmt: skip
"""Files by split, all of them in the wheels; scikit-image downloads its other images.

Those to train on are free of restrictions, but for flower.jpg (by vultilion) and china.jpg (by danielbuechele), which
are CC BY 2.0. scikit-image states no licence of the motorcycle, on which nothing is trained.
"""


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
            raise UsageError(
                f"the bundled photographs need {package}; install it with: pip install 'vimzoo[train]'"
            )
        found.append(Path(spec.origin).parent / rest)
        if not found[-1].is_file():
            raise UsageError(
                f"this version of {package} lacks {rest}; expected scikit-image 0.26 and scikit-learn 1.9"
            )
    return found
