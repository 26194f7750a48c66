"""PSNR and SSIM of restored images, as the restoration papers compute them.

Their rules (BasicSR's metrics, which MambaIR, SwinIR and most others report): both images are first rounded to 8 bits;
super-resolution and JPEG are evaluated on luma only; a border as wide as the scale is removed; the score of a data set
is the mean of its images' scores. SSIM has an 11 x 11 Gaussian window of deviation 1.5 and counts only
windows that lie inside the image. Images are tensors ``(C, H, W)``, RGB or grey, in 0..1.
"""

import math
import operator

import numpy as np
import torch
from torch import Tensor

__all__ = ["broken", "luma", "psnr", "ssim", "to_8bit"]

SSIM_WINDOW = 11
_LUMA = (65.481, 128.553, 24.966)  # ITU-R BT.601, for RGB in 0..1: luma lies in 16..235


def to_8bit(image: Tensor) -> np.ndarray:
    """Image ``(C, H, W)`` in 0..1 -> ``(H, W, C)`` uint8: clipped and rounded, as image files hold it.

    Raises:
        TypeError, ValueError: ``image`` is not such a tensor, or its numbers are whole.
    """
    _check_image("image", image)
    pixels = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).cpu().numpy()


def luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of RGB pixels ``(H, W, 3)`` in 0..255, as ``(H, W, 1)`` float64 in 16..235; grey pixels as they are.

    Raises:
        ValueError: the array has another shape.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels: expected (H, W, 3) or (H, W, 1), got {pixels.shape}")
    if pixels.shape[2] == 1:
        return pixels.astype(np.float64)
    return (pixels.astype(np.float64) / 255 @ np.array(_LUMA))[..., None] + 16


def psnr(restored: Tensor, original: Tensor, crop: int = 0, y: bool = False) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

        psnr(model(low[None])[0], high, crop=2, y=True)  # super-resolution x2 as papers report it

    Args:
        restored, original: Images ``(C, H, W)`` in 0..1, any floating-point type; numbers outside are clipped.
        crop: Pixels to leave out at each border.
        y: Compare luma instead of all channels.

    Raises:
        TypeError: an image is not a tensor.
        ValueError: the images differ in shape, are neither RGB nor grey, hold whole numbers, NaN or infinity, or
            ``crop`` leaves nothing.
    """
    a, b = _prepared(restored, original, crop, y, least=1)
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(restored: Tensor, original: Tensor, crop: int = 0, y: bool = False) -> float:
    """Structural similarity, at most 1: the mean over windows and channels.

    Args:
        restored, original, crop, y: As in `psnr`.

    Raises:
        ImportError: scikit-image is missing.
        TypeError: as in `psnr`.
        ValueError: as in `psnr`; a window does not fit into what ``crop`` leaves.
    """
    try:
        from skimage.metrics import structural_similarity
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ssim needs scikit-image; pip install 'vimzoo[train]'", name=error.name
        ) from None

    a, b = _prepared(restored, original, crop, y, least=SSIM_WINDOW)
    rules = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)  # gives the window of 11
    return float(structural_similarity(a, b, channel_axis=2, data_range=255, **rules))


def _prepared(restored: Tensor, original: Tensor, crop: int, y: bool, least: int) -> tuple[np.ndarray, ...]:
    """Both images as float64 pixels ``(H, W, C)`` in 0..255, cropped, at least ``least`` pixels high and wide."""
    for name, image in {"restored": restored, "original": original}.items():
        _check_image(name, image, channels=(1, 3))
        if not image.isfinite().all():
            count = int((~image.isfinite()).sum())
            raise ValueError(f"{name}: expected finite numbers, got {count} of NaN or infinity")
    if restored.shape != original.shape:
        raise ValueError(
            f"restored: expected the original's shape {tuple(original.shape)}, got {tuple(restored.shape)}"
        )
    try:
        crop = operator.index(crop)
    except TypeError:
        raise TypeError(f"crop: expected a whole number of pixels, got {crop!r}") from None
    if crop < 0 or min(original.shape[1:]) - 2 * crop < least:
        raise ValueError(f"crop={crop}: expected to leave {least} pixels or more of {tuple(original.shape)}")
    height, width = original.shape[1:]
    inner = np.s_[crop : height - crop, crop : width - crop]
    a, b = to_8bit(restored)[inner], to_8bit(original)[inner]
    return (luma(a), luma(b)) if y else (a.astype(np.float64), b.astype(np.float64))


def _check_image(name: str, image: Tensor, channels: tuple[int, ...] = ()) -> None:
    """Check that an image is a floating-point tensor ``(C, H, W)``, and its number of channels if any are named."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{name}: expected a tensor (C, H, W) in 0..1, got {type(image).__name__}")
    if image.dim() != 3 or (channels and image.shape[0] not in channels):
        shapes = " or ".join(f"({count}, H, W)" for count in sorted(channels, reverse=True)) or "(C, H, W)"
        raise ValueError(f"{name}: expected {shapes}, got {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"{name}: expected floating-point numbers in 0..1, got {image.dtype}")
    if image.is_meta:
        raise ValueError(f"{name}: expected a tensor with values, got one on the meta device")


def broken(output: Tensor) -> Tensor:
    """Whether each output of (B, ...) holds NaN or infinity, (B,) bool; minus infinity marks an excluded class.

    Raises:
        ValueError: ``output`` has no axis of images.
    """
    if output.dim() < 2:
        raise ValueError(f"output: expected (B, ...), got {tuple(output.shape)}")
    return ~(output < math.inf).flatten(1).all(1)
