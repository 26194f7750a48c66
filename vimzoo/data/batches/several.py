"""What a model is given: a batch of images, or of several images per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Given", "Several", "answer", "given"]


class Several:
    """Batches of the same samples, one per input of a model, with the methods of a tensor that training needs.

    Args:
        parts: Tensors ``(B, ...)``.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def shape(self) -> torch.Size:
        """That of the first batch."""
        return self.parts[0].shape

    def to(self, *args: Any, **kwargs: Any) -> Several:
        """As a tensor has it."""
        return Several([part.to(*args, **kwargs) for part in self.parts])

    def chunk(self, chunks: int) -> list[Several]:
        """As a tensor has it, along the samples."""
        return [Several(parts) for parts in zip(*(part.chunk(chunks) for part in self.parts), strict=True)]


Given = Tensor | Several


def given(images: Tensor | Sequence[Tensor]) -> Given:
    """What a loader collates as a model is given it."""
    return images if isinstance(images, Tensor) else Several(images)


def answer(model: Callable[..., Any], images: Given) -> Any:
    """A model's output."""
    return model(*images.parts) if isinstance(images, Several) else model(images)
