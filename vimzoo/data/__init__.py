"""What timm.data does not bring: bundled digits, fixed splits, augmentation seeded per sample."""

from collections.abc import Callable

from .digits import bundled_digits
from .folder import image_folder
from .loader import EpochBatches, eval_loader, train_loader
from .splits import Images, Splits, UsageError, stratified_split

SOURCES: dict[str, Callable[..., Splits]] = {"digits": bundled_digits, "folder": image_folder}

__all__ = [
    "SOURCES",
    "EpochBatches",
    "Images",
    "Splits",
    "UsageError",
    "bundled_digits",
    "eval_loader",
    "image_folder",
    "stratified_split",
    "train_loader",
]
