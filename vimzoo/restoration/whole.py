"""Restores a picture of any kind: further bands, other types of numbers, linear light, missing values."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from vimzoo.pictures.geo import NODATA
from vimzoo.pictures.picture import Picture, PictureError

from .batches import Steps, run_alone
from .edges import continued
from .restorer import Progress, Restorer
from .two_pictures import joining

__all__ = ["EXTRA_BANDS", "restored", "restoring"]

EXTRA_BANDS = ("restore", "copy", "refuse")
LINEAR = 8
"""The code point of linear light (ITU-T H.273)."""
WHITE = 203.0
"""Luminance of 1.0 in linear light, in cd/m2 (ITU-R BT.2408)."""
_logger = logging.getLogger(__name__)

Curve = Callable[[np.ndarray], np.ndarray]


def restored(
    picture: Picture,
    restorer: Restorer,
    extra_bands: str = "restore",
    progress: Progress | None = None,
    name: str = "a picture",
) -> Picture:
    """A picture with its pixels and bands restored.

    Missing values, NaN or those that GeoTIFF's tags name, are filled from nearby pixels for the model and are missing
    in the result.

    Args:
        picture: Any picture.
        restorer: Restores its parts, each 1 to 4 channels.
        extra_bands: ``"restore"`` or ``"copy"`` bands that are neither colour nor alpha.
        progress: As in `Restorer`, for the pixels.
        name: What warnings call it.

    Raises:
        PictureError: pixels are infinite.
        FloatingPointError, RuntimeError, MemoryError: as in `Restorer`.
    """
    return run_alone(restoring(picture, restorer, extra_bands, progress, name), restorer.run)


def restoring(
    picture: Picture,
    restorer: Restorer,
    extra_bands: str = "restore",
    progress: Progress | None = None,
    name: str = "a picture",
) -> Steps[Picture]:
    """`restored` as a generator, which asks for the model's answers; see `vimzoo.restoration.batches`."""
    if picture.other is not None:
        return (yield from joining(picture, restorer, progress))
    linear = picture.cicp is not None and picture.cicp[1] == LINEAR
    run = partial(_with_gaps, missing=_nodata(picture), linear=linear, restorer=restorer, name=name)

    def both(page: Picture, progress: Progress | None = None) -> Steps[Picture]:
        pixels, bands = (yield from run(page.pixels, progress=progress)), page.bands
        if bands is not None and extra_bands == "copy":
            bands = _repeated(bands, restorer.scale)
        elif bands is not None:
            planes = []
            for i in range(bands.shape[2]):
                planes.append((yield from run(bands[..., i : i + 1])))
            bands = np.concatenate(planes, -1)
        return page.enlarged(pixels, bands, restorer.scale)

    result, more = (yield from both(picture, progress)), []
    for page in picture.more:
        more.append((yield from both(page)))
    return replace(result, more=tuple(more))


def _nodata(picture: Picture) -> float | None:
    tag = picture.geo.get(NODATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _repeated(values: np.ndarray, scale: int) -> np.ndarray:
    return values.repeat(scale, 0).repeat(scale, 1)


def _with_gaps(
    pixels: np.ndarray,
    missing: float | None,
    linear: bool,
    restorer: Restorer,
    name: str,
    progress: Progress | None = None,
) -> Steps[np.ndarray]:
    """Restored pixels, with missing ones as they were."""
    count = 3 if pixels.shape[2] > 2 else 1
    colours = pixels[..., :count]
    gaps = np.isnan(colours).any(-1) if pixels.dtype.kind == "f" else np.zeros(pixels.shape[:2], bool)
    if missing is not None:
        gaps |= (colours == missing).all(-1)
    if not gaps.any():
        return (yield from _of_any_numbers(pixels, linear, restorer, name, progress))
    if gaps.all():
        return _repeated(pixels, restorer.scale)
    filled = np.concatenate([continued(colours, ~gaps, whole=True), pixels[..., count:]], -1)
    result = yield from _of_any_numbers(filled, linear, restorer, name, progress)
    own = result[..., :count]
    if missing is not None:
        same = (own == missing).all(-1)  # a pixel that is there must not become a missing one
        own[same] = np.nextafter(own[same], np.inf) if own.dtype.kind == "f" else _next(own[same])
    where = _repeated(gaps, restorer.scale)
    own[where] = _repeated(colours, restorer.scale)[where]
    return result


def _next(values: np.ndarray) -> np.ndarray:
    return np.where(values == np.iinfo(values.dtype).max, values - 1, values + 1)


def _of_any_numbers(
    pixels: np.ndarray, linear: bool, restorer: Restorer, name: str, progress: Progress | None
) -> Steps[np.ndarray]:
    """Integers of 8 and 16 bits as they are; others as float32 from 0 to 1, the range that the model knows.

    Floating point within 0..1 is taken as it is, linear light by the curve of PQ; otherwise the smallest and the
    largest number are black and white.
    """
    if pixels.dtype in (np.uint8, np.uint16) and not linear:
        return (yield from restorer.steps(pixels, progress))
    count = 3 if pixels.shape[2] > 2 else 1
    colours, alpha = pixels[..., :count].astype(np.float64), pixels[..., count:].astype(np.float64)
    if not np.isfinite(colours).all():
        raise PictureError("pixels are infinite; expected finite numbers")
    floats = pixels.dtype.kind == "f"
    top = 1.0 if floats else float(np.iinfo(pixels.dtype).max)
    if linear:
        encode, decode = _linear_light(float(colours.max()) / top, top)
    else:
        encode, decode = _range(colours, floats, f"{name}: pixels of {pixels.dtype}")
    unit = np.concatenate([encode(colours), alpha / top], -1).astype(np.float32)
    values = (yield from restorer.steps(unit, progress)).astype(np.float64)
    values = np.concatenate([decode(values[..., :count]), values[..., count:] * top], -1)
    if not floats:
        limits = np.iinfo(pixels.dtype)
        values = np.rint(values).clip(limits.min, limits.max)
    return values.astype(pixels.dtype)


def _range(numbers: np.ndarray, floats: bool, what: str) -> tuple[Curve, Curve]:
    """Numbers to 0..1 and back; their range is stated unless it is that."""
    low, high = float(numbers.min()), float(numbers.max())
    if floats and low >= 0 and high <= 1:
        return (lambda x: x), (lambda x: x)
    _logger.warning("%s from %g to %g: the model gets these as black to white", what, low, high)
    span = (high - low) or 1.0
    return (lambda x: (x - low) / span), (lambda x: x * span + low)


def _linear_light(high: float, white: float) -> tuple[Curve, Curve]:
    """Linear light in units of ``white`` to PQ's code values (ITU-R BT.2100) and back; negative light is mirrored."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    peak = 10_000 / min(WHITE, 10_000 / max(high, 1e-6))

    def encode(x: np.ndarray) -> np.ndarray:
        y = (np.abs(x) / (peak * white)) ** m1
        return np.copysign(((c1 + c2 * y) / (1 + c3 * y)) ** m2 - _BLACK, x)

    def decode(x: np.ndarray) -> np.ndarray:
        y = (np.abs(x).clip(0, 1 - _BLACK) + _BLACK) ** (1 / m2)
        return np.copysign((np.maximum(y - c1, 0) / (c2 - c3 * y)) ** (1 / m1) * peak * white, x)

    return encode, decode


_BLACK = (3424 / 4096) ** (2523 / 32)
"""PQ's code value of no light, 7e-7, which is subtracted so that negative numbers join."""
