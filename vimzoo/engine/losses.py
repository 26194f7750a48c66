"""Losses and mixing of batches that timm does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.data import Splits
from vimzoo.data.images.classes import listed
from vimzoo.errors import UsageError


class CharbonnierLoss(nn.Module):
    """Mean of sqrt(difference^2 + eps), a smooth absolute difference (Charbonnier et al., ICIP 1994).

    Args:
        eps: Added to the square; the authors' files for denoising and JPEG have 1e-3.

    Raises:
        ValueError: ``eps`` is not positive.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps: expected a positive number, got {eps}")
        self.eps = eps

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Images of one shape -> a number."""
        return ((output - target).square() + self.eps).sqrt().mean()


class PairMixup:
    """Mixes the pairs of a batch with one another, images and targets alike.

    Args:
        alpha: The share of the first pair is drawn from Beta(alpha, alpha) for the whole batch.
        prob: Share of the batches that are mixed.
    """

    def __init__(self, alpha: float, prob: float = 1.0) -> None:
        self.alpha, self.prob = alpha, prob

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Degraded images (B, ...) and clean ones (B, ...); draws from NumPy's global generator."""
        if np.random.rand() >= self.prob:
            return images, targets
        share = float(np.random.beta(self.alpha, self.alpha))
        order = torch.from_numpy(np.random.permutation(len(images))).to(images.device)
        return images.lerp(images[order], 1 - share), targets.lerp(targets[order], 1 - share)


class WeightedCrossEntropy(nn.Module):
    """Mean over a batch of cross-entropy times a weight of each class.

    The sum is not divided by the weights that happen to be in a batch, so that micro-batches and processes add up.

    Args:
        weights: (C,). smoothing: of labels that are class numbers.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Logits (B, C); class numbers (B,), or shares of classes (B, C)."""
        if target.ndim == 1:
            share = self.smoothing / output.shape[1]
            target = F.one_hot(target, output.shape[1]) * (1 - self.smoothing) + share
        weighted = target * self.weights.to(output.device)
        return -(weighted * output.log_softmax(1)).sum(1).mean()


def class_weights(asked: Any, data: Splits) -> Tensor:
    """Weights of the classes, (C,), of mean 1 over the training images, or over the pixels of training masks.

    Args:
        asked: ``balanced`` gives all classes the same weight in sum; or weights by class name, 1 where none is given.

    Raises:
        UsageError: neither, a name that is no class, or no labels to count.
    """
    counted = data.pixels
    if counted is None and data.labels is not None:
        counted = np.bincount(data.labels, minlength=len(data.classes))
    if counted is None:
        raise UsageError(f"loss.class_weights={asked}: {data.name} has no labels without reading images")
    counts = torch.from_numpy(counted).float()
    if asked == "balanced":
        weights = 1 / counts.clamp(min=1)
    elif isinstance(asked, dict) and not {str(name) for name in asked} - set(data.classes):
        by_name = {str(name): float(weight) for name, weight in asked.items()}
        weights = torch.tensor([by_name.get(name, 1.0) for name in data.classes])
    else:
        raise UsageError(
            f"loss.class_weights={asked}: expected balanced, or weights by class name: {listed(data.classes)}"
        )
    return weights * (counts.sum() / (weights * counts).sum())
