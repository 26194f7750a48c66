"""Data sets and loaders beyond timm.data: bundled images, fixed splits, image pairs, augmentation seeded per sample."""

from vimzoo.errors import UsageError

from .batches.buckets import BucketBatches, Shapes
from .batches.loader import closing, eval_loader, sample, train_loader
from .batches.stages import StageBatches, Stages
from .batches.uniform import EpochBatches
from .record import Source
from .sources import SOURCES
from .sources.clips import film_folder
from .sources.degraded_folder import degraded_folder
from .sources.digits import bundled_digits
from .sources.folder import image_folder
from .sources.fusion import fusion_folder
from .sources.fusion_photos import bundled_fusion_photos
from .sources.hub import hub_dataset
from .sources.masks import mask_folder
from .sources.moving_digits import bundled_moving_digits
from .sources.paired import paired_folder
from .sources.photos import bundled_photos
from .sources.shapes import drawn_shapes
from .sources.shards import shards
from .sources.sharpening import sharpening_folder
from .sources.sharpening_photos import bundled_sharpening_photos
from .splits import Images, Splits, stratified_split

__all__ = [
    "SOURCES",
    "BucketBatches",
    "EpochBatches",
    "Images",
    "Shapes",
    "Source",
    "Splits",
    "StageBatches",
    "Stages",
    "UsageError",
    "bundled_digits",
    "bundled_fusion_photos",
    "bundled_moving_digits",
    "bundled_photos",
    "bundled_sharpening_photos",
    "closing",
    "degraded_folder",
    "drawn_shapes",
    "eval_loader",
    "film_folder",
    "fusion_folder",
    "hub_dataset",
    "image_folder",
    "mask_folder",
    "paired_folder",
    "sample",
    "shards",
    "sharpening_folder",
    "stratified_split",
    "train_loader",
]
