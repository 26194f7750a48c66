"""Base class of the segmentation models: images in, class scores of every pixel out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.segmentation import sliding_windows

from .export_options import ExportOptions
from .weights.loading import CheckpointError, FilterFn, load_into

__all__ = ["SegmentationModel"]


class SegmentationModel(nn.Module):
    """Base of networks from images to class scores of every pixel; a subclass has ``scores`` and ``load_encoder``.

    Networks with several heads also have ``level_scores``; in training they return all scores, if they are told to.

    Attributes:
        num_classes: Classes.
        in_chans: Channels of the images.
        num_features: Channels before the last layer.
        multiple_of: Images are padded to multiples of this, and their scores cropped.
        window: Height and width of the windows that images are read in, in evaluation, smaller ones with zeros around
            them; None takes them whole.
        overlap: Least share that neighbouring windows have in common.
        deep_supervision: Whether scores of several resolutions are returned in training; see `set_deep_supervision`.
        filter_fn: Turns the names of weight files into the model's, as `load_into` takes it.
        export_options: What `vimzoo.exporting` must know about the class.
    """

    num_classes: int
    in_chans: int
    num_features: int
    multiple_of: int = 32
    window: tuple[int, int] | None = None
    overlap: float = 0.5
    deep_supervision: bool = False
    filter_fn: FilterFn | None = None
    export_options: ExportOptions = ExportOptions(settings={"window": None})
    """A file reads whole images: windows are read by its user."""

    def set_window(self, window: Sequence[int] | None, overlap: float = 0.5) -> None:
        """Read images in windows of this size, in evaluation; smaller ones with zeros around them, as in training.

        Raises:
            ValueError: it is not a height and a width, or the overlap is not in 0..1 (1 excluded).
        """
        if window is not None and (len(window) != 2 or min(window) < 1):
            raise ValueError(f"window={window}: expected a height and a width")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap={overlap}: expected at least 0 and below 1")
        self.window = None if window is None else (int(window[0]), int(window[1]))
        self.overlap = overlap

    def scores(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) with sides that are multiples of ``multiple_of`` -> class scores (B, classes, H, W)."""
        raise NotImplementedError

    def set_deep_supervision(self, enable: bool = True) -> None:
        """Return scores of several resolutions in training, in a list, the finest first.

        Raises:
            ValueError: the network has scores of one resolution only.
        """
        if enable:
            raise ValueError(f"deep_supervision: {type(self).__name__} has scores of one resolution only")

    def level_scores(self, x: Tensor) -> list[Tensor]:
        """As ``scores``, of all heads, the finest first."""
        raise NotImplementedError

    def levels(self, x: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) of any size -> class scores (B, classes, h, w) of all heads, the finest first."""
        height, width = x.shape[2:]
        padded = self._padded(x)
        found = self.level_scores(padded)
        rows, columns = padded.shape[2:]
        return [
            y[..., : math.ceil(height * y.shape[2] / rows), : math.ceil(width * y.shape[3] / columns)]
            for y in found
        ]

    def forward(self, x: Tensor) -> Any:
        """Images (B, C, H, W) of any size -> class scores (B, classes, H, W), before softmax.

        In training with ``deep_supervision`` a list of `levels`.
        """
        if self.training and self.deep_supervision:
            return self.levels(x)
        windows = self.window is not None and not self.training and not torch.jit.is_tracing()
        if self.window is not None and windows and len(x) and tuple(x.shape[2:]) != self.window:
            return sliding_windows(self.whole, x, self.window, self.overlap)
        return self.whole(x)

    def whole(self, x: Tensor) -> Tensor:
        """As ``forward``, without windows."""
        padded = self._padded(x)
        if padded is x:
            return self.scores(x)
        y = self.scores(padded)
        for axis in range(2, x.dim()):
            y = y.narrow(axis, 0, x.shape[axis])
        return y

    def _padded(self, x: Tensor) -> Tensor:
        """Images with zeros at their right and lower ends, up to multiples of ``multiple_of``; volumes likewise."""
        pads: list[int] = []
        for axis in range(x.dim() - 1, 1, -1):
            pads += [0, -x.shape[axis] % self.multiple_of]
        return F.pad(x, pads) if any(pads) else x

    @torch.jit.ignore
    def load_pretrained(
        self, checkpoint_path: str | os.PathLike[str], prefix: str = "", *, use_ema: bool | None = None
    ) -> None:
        """Load a file of the whole network, with `load_into`'s arguments and errors."""
        load_into(self, checkpoint_path, self.filter_fn, use_ema=use_ema, prefix=prefix)

    @torch.jit.ignore
    def load_encoder(self, path: str | os.PathLike[str] | None = None) -> str:
        """Begin with the weights of a classifier.

        Args:
            path: Its file; None takes the published weights of the classifier that the network was made of.

        Returns:
            What was loaded, for display.

        Raises:
            CheckpointError: there are no such weights, or they do not fit.
        """
        raise CheckpointError(f"{type(self).__name__} has no encoder that can be loaded alone")

    @torch.jit.ignore
    def start_from(self, path: str | os.PathLike[str]) -> str:
        """Begin with a file of the whole network or of the encoder's classifier; returns what was loaded, for display.

        Raises:
            CheckpointError: it is neither.
        """
        try:
            self.load_pretrained(path)
            return "all tensors"
        except CheckpointError as error:
            try:
                return self.load_encoder(path)
            except CheckpointError as other:
                raise CheckpointError(f"neither this network: {error}; nor its encoder: {other}") from other

    def get_classifier(self) -> nn.Module:
        """The last layer, which has an output channel per class."""
        raise NotImplementedError
