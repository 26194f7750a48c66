"""Options of data sets of image pairs: crops for training, whole images for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vimzoo.errors import UsageError

from ..batches.stages import parsed_stages
from ..batches.uniform import Uniform
from ..splits import Splits
from .crops import MODES, CropPairs, ImagePairs, PixelCache, WholePairs, image_size
from .degradations import Degradation

__all__ = ["Files", "PairSettings"]

Files = tuple[Sequence[Path] | None, Sequence[Path]]  # degraded, clean


@dataclass
class PairSettings:
    """Options of all data sets of pairs; validated as far as possible before files are opened.

    Attributes:
        crop: Side of the clean crops to train on, in pixels; None is that of the first stage, or else 128, 126 at
            scale 3.
        crops: Crops per epoch; with ``stages`` of the first one.
        in_chans: 3 reads colour, 1 grey.
        eval_crop: At most so many clean pixels per axis, from the middle, in evaluation; None takes whole images.
        cache_mb: Decoded images kept in memory by every process that loads.
        stages: Sizes of crops and batches that change in the course of the run: mappings of ``epochs``, ``crop`` and
            ``batch_size``, see `vimzoo.data.batches.stages.Stages`; an epoch has as many updates in each.
        aug: ``flip`` (left and right exchanged) and ``rotate`` (also turned by quarters), each for half the crops.
        seed: Seeds the crops, not the split.
        pretrained_cfg: Unused; images stay in 0..1.

    Raises:
        UsageError: an option out of range.
    """

    any_bands: ClassVar[bool] = False
    """Whether images may have any number of bands."""
    crop: int | None = None
    crops: int = 16000
    in_chans: int = 3
    eval_crop: int | None = 512
    cache_mb: float = 1024
    stages: Sequence[Mapping[str, Any]] | None = None
    aug: Mapping[str, Any] | None = None
    seed: int = 0
    pretrained_cfg: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if strange := set(self.aug or {}) - {"flip", "rotate"}:
            raise UsageError(f"`aug`: pairs of images take flip and rotate, not {', '.join(sorted(strange))}")
        if self.in_chans not in MODES and not self.any_bands:
            raise UsageError(f"`in_chans`={self.in_chans}: expected 1 (grey) or 3 (colour)")
        if self.crops < 1:
            raise UsageError(f"`crops`={self.crops}: expected at least 1")

    def splits(
        self,
        name: str,
        parts: Sequence[Files],
        scale: int = 1,
        degradation: Degradation | None = None,
        kind: Callable[..., ImagePairs] = ImagePairs,
    ) -> Splits:
        """The data set of that name.

        Args:
            parts: Files for training, validation and, if given, test.
            scale: Clean pixels per degraded one and axis.
            degradation: Of clean images that have no degraded ones beside them.
            kind: What makes samples of files.

        Raises:
            UsageError: an option does not fit the scale, or a training image is smaller than the largest crop.
        """
        stages = None if self.stages is None else parsed_stages(self.stages, self.crops, scale)
        first = stages.parts[0].crop if stages else 128 // scale * scale
        crop = first if self.crop is None else self.crop
        if crop < scale or crop % scale:
            raise UsageError(f"`crop`={crop}: expected a positive multiple of the scale, {scale}")
        if self.eval_crop is not None and self.eval_crop < scale:
            raise UsageError(
                f"`eval_crop`={self.eval_crop}: expected at least the scale, {scale}, or `None` for whole images"
            )
        if stages and crop != first:
            raise UsageError(f"`crop`={crop}: expected that of the first of `stages`, {first}")
        largest = max(stage.crop for stage in stages.parts) if stages else crop
        asked = f"`stages`: crops of {largest} pixels" if stages else f"`crop`={crop}"
        for path in parts[0][1] if parts[0] is not parts[-1] else ():
            if min(size := image_size(path)) < largest:
                raise UsageError(f"{asked}: {path} is only {size[0]} x {size[1]} pixels")
        cache = PixelCache(int(self.cache_mb * 2**20))
        judged = degradation and degradation.evaluated()
        train, val, *test = (
            kind(high, low, judged if place else degradation, scale, self.in_chans, cache)
            for place, (low, high) in enumerate(parts)
        )
        return Splits(
            name=name,
            train=CropPairs(train, crop, self.crops, dict(self.aug or {}), self.seed),
            val=WholePairs(val, self.eval_crop),
            test=WholePairs(test[0], self.eval_crop) if test else None,
            classes=(),
            input_size=(self.in_chans, crop // scale, crop // scale),
            mean=(0.0,) * self.in_chans,
            std=(1.0,) * self.in_chans,
            eval_batch=1,
            scale=scale,
            batching=stages or Uniform(),
        )
