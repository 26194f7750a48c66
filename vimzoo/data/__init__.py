"""What timm.data does not bring: bundled images, fixed splits, pairs to restore, augmentation seeded per sample."""

from collections.abc import Callable

from vimzoo.errors import UsageError

from .batches.buckets import BucketBatches, Shapes
from .batches.loader import EpochBatches, closing, eval_loader, sample, train_loader
from .batches.stages import StageBatches, Stages
from .images.digits import bundled_digits
from .images.folder import image_folder
from .images.hub import hub_dataset
from .images.shards import shards
from .pairs.folders import degraded_folder, paired_folder
from .pairs.photos import bundled_photos
from .splits import Images, Splits, stratified_split

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
