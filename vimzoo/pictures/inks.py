"""CMYK, and grey with a colour profile, to RGB."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageCms

from .numbers import eight_bits
from .picture import Picture, PictureError, needs

__all__ = ["from_inks", "in_colour", "is_srgb"]


def from_inks(pixels: np.ndarray, profile: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """CMYK of 8 or 16 bits, 0 being no ink, as sRGB.

    Args:
        pixels: ``(H, W, 4 or more)``; channels after the first four are kept.
        profile: Their colour profile. Without one, inks are taken as ideal, as Pillow does.

    Returns:
        Pixels ``(H, W, 3 or more)``, and the profile of sRGB if there was one.

    Raises:
        PictureError: the profile cannot be applied.
    """
    inks, others = pixels[..., :4], pixels[..., 4:]
    if profile is None:
        top = np.iinfo(pixels.dtype).max
        light = top - inks.astype(np.uint64)
        colours = (light[..., :3] * light[..., 3:] + top // 2) // top
        return np.concatenate([colours.astype(pixels.dtype), others], -1), None
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colours = _eight(inks, profile) if pixels.dtype == np.uint8 else _sixteen(inks, profile, srgb)
    return np.concatenate([colours, others], -1), srgb


def in_colour(picture: Picture) -> Picture:
    """Grey with a colour profile as sRGB of 8 bits, for formats without grey.

    Raises:
        PictureError: the profile cannot be applied.
    """
    pixels = eight_bits(picture.pixels)
    assert picture.profile is not None
    colours = _converted(Image.fromarray(np.ascontiguousarray(pixels[..., 0])), picture.profile, "grey")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return replace(picture, pixels=np.concatenate([colours, pixels[..., 1:]], -1), profile=srgb)


def is_srgb(profile: bytes | None) -> bool:
    """Whether a profile is sRGB's by its name, or there is none."""
    if profile is None:
        return True
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).startswith(
            "sRGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return False


def _eight(inks: np.ndarray, profile: bytes) -> np.ndarray:
    return _converted(Image.fromarray(np.ascontiguousarray(inks), "CMYK"), profile, "CMYK")


def _converted(image: Image.Image, profile: bytes, kind: str) -> np.ndarray:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise PictureError(f"{kind} with a colour profile that cannot be applied ({error})") from error
    return np.asarray(converted)


def _sixteen(inks: np.ndarray, profile: bytes, srgb: bytes) -> np.ndarray:
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("imagecodecs to convert CMYK of 16 bits") from error
    try:
        return imagecodecs.cms_transform(
            np.ascontiguousarray(inks), profile, srgb, colorspace="cmyk", outcolorspace="rgb", outdtype="u2"
        )
    except (imagecodecs.CmsError, ValueError) as error:
        raise PictureError(f"CMYK with a colour profile that cannot be applied ({error})") from error
