"""Segmentation: scores named by their rule, losses, sliding windows and colours. Knows no models and no files."""

from .colours import overlay, palette
from .counting import EMPTY, MEASURES, counts, image_scores, mean_over, overlap, pooled
from .losses import SegmentationLoss, cross_entropy, dice_loss, level_weights, resized_target
from .surfaces import SurfaceScores, surface_scores
from .windows import gaussian_weights, sliding_windows, window_starts

__all__ = [
    "EMPTY",
    "MEASURES",
    "SegmentationLoss",
    "SurfaceScores",
    "counts",
    "cross_entropy",
    "dice_loss",
    "gaussian_weights",
    "image_scores",
    "level_weights",
    "mean_over",
    "overlap",
    "overlay",
    "palette",
    "pooled",
    "resized_target",
    "sliding_windows",
    "surface_scores",
    "window_starts",
]
