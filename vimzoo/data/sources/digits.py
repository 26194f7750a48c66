"""The 1797 handwritten digits of 8x8 pixels in scikit-learn: real images without a download."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from vimzoo.errors import UsageError

from ..record import Source
from ..splits import Splits, stratified_split


def warp(images: Tensor, size: int, angle: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Resize, rotate, shift and scale in one bilinear sampling; pixels from outside are black.

    Args:
        images: (B, C, h, w).
        size: side of the output.
        angle: radians, (B,). shift: x and y as a share of the width, (B, 2). scale: > 1 enlarges, (B,).

    Returns:
        (B, C, size, size).
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [torch.stack([cos, -sin, 2 * shift[:, 0]], dim=1), torch.stack([sin, cos, 2 * shift[:, 1]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class AugmentedDigits(Dataset):
    """Training digits, warped differently for every (epoch, index); a batch is warped at once."""

    def __init__(
        self, images: Tensor, labels: Tensor, size: int, norm: tuple[float, float], amounts: Tensor, seed: int
    ) -> None:
        self.images, self.labels, self.size, self.norm = images, labels, size, norm
        self.amounts, self.seed = amounts, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
        draws = [np.random.default_rng([self.seed, *key]).uniform(-1, 1, 4) for key in keys]
        angle, dx, dy, scale = (torch.tensor(np.array(draws), dtype=torch.float32) * self.amounts).unbind(1)
        index = torch.tensor([key[1] for key in keys])
        images = warp(self.images[index], self.size, angle, torch.stack([dx, dy], dim=1), scale.exp())
        return list(zip((images - self.norm[0]) / self.norm[1], self.labels[index], strict=True))


def bundled_digits(
    img_size: int | None = 16,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    *,
    in_chans: int = 1,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """The bundled digits with a fixed stratified split (it does not depend on ``seed``).

    Args:
        img_size: side in pixels that the 8x8 images are enlarged to; None means 16.
        val_fraction, test_fraction: share of each class that is held out.
        in_chans: 1, or 3 for the same grey in three channels.
        aug: training images vary by ``rotate`` (degrees), ``shift`` (share of the width), ``scale`` (share).
        seed: seeds the augmentation.
        pretrained_cfg: unused; digits have their own size and normalisation.

    Raises:
        UsageError: an unknown augmentation or an impossible size.
    """
    from sklearn.datasets import load_digits

    size = 16 if img_size is None else img_size
    if size < 1:
        raise UsageError(f"`img_size`={img_size}: expected a positive number of pixels")
    if in_chans not in (1, 3):
        raise UsageError(f"`in_chans`={in_chans}: expected 1 (grey) or 3 (the same grey three times)")
    aug = dict(aug or {})
    rotate, shift, scale = amounts = [aug.pop(name, 0.0) for name in ("rotate", "shift", "scale")]
    if aug:
        raise UsageError(f"`aug`: digits take rotate, shift and scale, not {', '.join(aug)}")
    if not all(isinstance(amount, int | float) for amount in amounts):
        raise UsageError(f"`aug`: expected numbers as rotate, shift and scale, got {amounts}")
    source = load_digits()
    images = torch.from_numpy(source.images).float()[:, None].repeat(1, in_chans, 1, 1) / 16
    labels = torch.from_numpy(source.target).long()
    train, val, test = (
        torch.from_numpy(part) for part in stratified_split(source.target, val_fraction, test_fraction)
    )
    grey = images[train, :1]
    norm = (grey.mean().item(), grey.std().item())
    widths = torch.tensor([np.deg2rad(rotate), shift, shift, np.log1p(scale)], dtype=torch.float32)

    def held_out(part: Tensor) -> TensorDataset:
        n = len(part)
        still = warp(images[part], size, torch.zeros(n), torch.zeros(n, 2), torch.ones(n))
        return TensorDataset((still - norm[0]) / norm[1], labels[part])

    return Splits(
        name="digits (bundled with scikit-learn)",
        train=AugmentedDigits(images[train], labels[train], size, norm, widths, seed),
        val=held_out(val),
        test=held_out(test) if len(test) else None,
        labels=labels[train].numpy(),
        classes=tuple(str(name) for name in source.target_names),
        input_size=(in_chans, size, size),
        mean=norm[:1] * in_chans,
        std=norm[1:] * in_chans,
    )


SOURCE = Source("digits", bundled_digits)
