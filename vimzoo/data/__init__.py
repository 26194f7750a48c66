"""What timm.data does not bring: bundled digits, fixed splits, augmentation seeded per sample."""

from .digits import digits
from .folder import folder
from .loader import EpochBatches, eval_loader, train_loader
from .splits import Images, Splits, UsageError, stratified_split

SOURCES = {"digits": digits, "folder": folder}

__all__ = [
    "SOURCES",
    "EpochBatches",
    "Images",
    "Splits",
    "UsageError",
    "digits",
    "eval_loader",
    "folder",
    "stratified_split",
    "train_loader",
]
