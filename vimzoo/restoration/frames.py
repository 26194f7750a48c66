"""Restores the frames of a film, given as planes of code values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vimzoo.film.colours import Colours, Field, fields_of, from_rgb, stored, to_rgb
from vimzoo.film.layout import Layout

from .restorer import Restorer

__all__ = ["Frames"]


@dataclass(frozen=True)
class Frames:
    """Restores frames.

    If the size and the pixel format stay, the difference that the network makes is added to the code values that are
    stored. Code values that the network does not change are kept exactly, also those that stand for no colour.

    Attributes:
        restorer: Restores RGB.
        layout, colours: Of the film.
        result, result_colours: Of the result.
        preview: Put the original, enlarged, to the left of the result.
    """

    restorer: Restorer
    layout: Layout
    colours: Colours
    result: Layout
    result_colours: Colours
    preview: bool = False

    @torch.inference_mode()
    def __call__(self, planes: list[Tensor], interlaced: bool = False) -> list[Tensor]:
        """Restore a frame.

        Args:
            planes: Code values, ``(rows, columns)`` float32 each.
            interlaced: Whether the fields were recorded one after the other; each is restored as a picture of its own.

        Returns:
            The planes of the result, rounded, on the CPU.
        """
        parts = []
        for field in fields_of(planes[0].shape[0], interlaced):
            own = [plane[field.first :: field.step].to(self.restorer.device) for plane in planes]
            parts.append([plane.cpu() for plane in stored(self._restored(own, field), self.result.bits)])
        return parts[0] if len(parts) == 1 else [_woven(*rows) for rows in zip(*parts, strict=True)]

    def _restored(self, planes: list[Tensor], field: Field) -> list[Tensor]:
        image = to_rgb(planes, self.layout, self.colours, field)
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        result = torch.from_numpy(self.restorer(pixels)).permute(2, 0, 1).to(image.device)
        in_place = (self.layout, self.colours) == (self.result, self.result_colours)
        if in_place and self.restorer.scale == 1 and not self.preview:
            return self._changed(planes, image, result, field)
        if self.preview:
            result = torch.cat([self._enlarged(image), result], 2)
        return from_rgb(self._channels(result), self.result, self.result_colours, field)

    def _changed(self, planes: list[Tensor], image: Tensor, result: Tensor, field: Field) -> list[Tensor]:
        """The planes with the network's difference added."""
        if self.layout.alpha:  # what is invisible keeps its colour
            result = torch.cat([torch.where(image[-1] > 0, result[:-1], image[:-1]), result[-1:]])
        before, after = (from_rgb(x, self.layout, self.colours, field) for x in (image, result))
        return [plane + (new - old) for plane, new, old in zip(planes, after, before, strict=True)]

    def _enlarged(self, image: Tensor) -> Tensor:
        if self.restorer.scale == 1:
            return image
        return F.interpolate(image[None], scale_factor=self.restorer.scale, mode="bicubic")[0]

    def _channels(self, image: Tensor) -> Tensor:
        """Grey as RGB where the result has colours."""
        if self.layout.kind == "grey" and self.result.kind != "grey":
            return torch.cat([image[:1].expand(3, -1, -1), image[1:]])
        return image


def _woven(top: Tensor, bottom: Tensor) -> Tensor:
    """The rows of two fields in turn."""
    whole = top.new_empty(len(top) + len(bottom), top.shape[1])
    whole[::2], whole[1::2] = top, bottom
    return whole
