"""What timm.data does not bring: bundled images, fixed splits, pairs to restore, augmentation seeded per sample."""

from collections.abc import Callable

from .buckets import BucketBatches, Shapes
from .digits import bundled_digits
from .folder import image_folder
from .hub import hub_dataset
from .loader import EpochBatches, closing, eval_loader, sample, train_loader
from .paired import degraded_folder, paired_folder
from .photos import bundled_photos
from .shards import shards
from .splits import Images, Splits, UsageError, stratified_split
from .stages import StageBatches, Stages

SOURCES: dict[str, Callable[..., Splits]] = {
    "digits": bundled_digits,
    "folder": image_folder,
    "shards": shards,
    "hub": hub_dataset,
    "photos": bundled_photos,
    "paired": paired_folder,
    "degraded_folder": degraded_folder,
}

__all__ = [
    "SOURCES",
    "BucketBatches",
    "EpochBatches",
    "Images",
    "Shapes",
    "Splits",
    "StageBatches",
    "Stages",
    "UsageError",
    "bundled_digits",
    "bundled_photos",
    "closing",
    "degraded_folder",
    "eval_loader",
    "hub_dataset",
    "image_folder",
    "paired_folder",
    "sample",
    "shards",
    "stratified_split",
    "train_loader",
]
