"""The sharpening task: an image of many bands, in the resolution of a finer one of few."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.data import Images, Splits
from vimzoo.data.pairs.degradations import imresize
from vimzoo.metrics import broken

from .. import of_two_pictures
from ..record import Task
from ..reports.drawing import SHEET_IMAGES, sheet
from .restoration import build_loss as restoration_loss


def build_model(cfg: dict[str, Any], data: Splits) -> nn.Module:
    """See `vimzoo.engine.of_two_pictures.build_model`."""
    return of_two_pictures.build_model(cfg, data, "sharpen", ("x", "guide"))


def build_loss(cfg: dict[str, Any], data: Splits) -> tuple[None, nn.Module]:
    """The loss that ``loss`` names, as task=restore has them.

    Raises:
        UsageError: another loss or argument, or images are to be mixed.
    """
    of_two_pictures.check_unmixed(cfg, "sharpen")
    return None, restoration_loss(cfg, data, "sharpen")[1]


def spectral_angle(sharpened: Tensor, original: Tensor) -> float:
    """SAM: the mean angle between the bands of two images ``(C, H, W)``, in degrees."""
    a, b = sharpened.double(), original.double()
    norms = a.norm(dim=0) * b.norm(dim=0)
    cosine = torch.where(norms > 0, (a * b).sum(0) / norms.clamp(min=1e-12), 1.0)
    return math.degrees(cosine.clamp(-1, 1).acos().mean().item())


def relative_error(sharpened: Tensor, original: Tensor, scale: int) -> float:
    """ERGAS: the root mean square over the bands of each band's error as a share of its mean, times 100 / scale."""
    a, b = sharpened.double(), original.double()
    shares = (a - b).square().mean((1, 2)) / b.mean((1, 2)).square().clamp(min=1e-12)
    return 100 / scale * math.sqrt(shares.mean().item())


def decibels(sharpened: Tensor, original: Tensor) -> float:
    """PSNR over all bands of images in 0..1, without rounding."""
    error = (sharpened.double() - original.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


@dataclass
class Scores:
    """Mean absolute difference, PSNR, SAM and ERGAS of every image, on all pixels."""

    scale: int
    l1: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    sam: list[float] = field(default_factory=list)
    ergas: list[float] = field(default_factory=list)

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count one batch of sharpened images and originals (B, C, H, W); of NaN or infinity, NaN."""
        lost = broken(output).tolist()
        for sharpened, original, unknown in zip(output.float(), target, lost, strict=True):
            self.l1.append(F.l1_loss(sharpened, original).item())
            self.psnr.append(math.nan if unknown else decibels(sharpened, original))
            self.sam.append(math.nan if unknown else spectral_angle(sharpened, original))
            self.ergas.append(math.nan if unknown else relative_error(sharpened, original, self.scale))

    def sums(self) -> dict[str, Any]:
        """Values of the single images, in lists."""
        return {"l1": self.l1, "psnr": self.psnr, "sam": self.sam, "ergas": self.ergas}

    def summary(self) -> dict[str, float]:
        """Means over the images."""
        return {
            "loss": fmean(self.l1),
            "psnr": fmean(self.psnr),
            "sam": fmean(self.sam),
            "ergas": fmean(self.ergas),
        }


@torch.inference_mode()
def pictures(model: nn.Module, images: Images, scores: Scores, data: Splits, out: Path) -> None:
    """``sharpened.png`` in the folder ``out``: parts of the first images enlarged, sharpened and as they were."""
    device = next(chain(model.parameters(), model.buffers())).device
    rows = []
    for (x, guide), original in (images[row] for row in range(min(SHEET_IMAGES, len(scores.psnr)))):
        sharpened = model(x[None].to(device), guide[None].to(device))[0].float().cpu()
        shown = (("bicubic", imresize(x, data.scale)), ("sharpened", sharpened))
        rows.append(
            [(f"{name}  {decibels(image, original):.2f} dB", image) for name, image in shown]
            + [("original", original)]
        )
    sheet(rows, out / "sharpened.png")


TASK = Task(
    name="sharpen",
    score="psnr",
    unit="dB",
    digits=2,
    label="PSNR",
    own_data=(
        "experiment=spectral_fusion_mamba data.root=DIR data.peak=2047",
        "sharpen your own images of 11 bits: DIR/ms and DIR/pan",
    ),
    files={"sharpened.png": "images enlarged, sharpened and as they were"},
    build_model=build_model,
    build_judged=build_model,
    build_loss=build_loss,
    scores=lambda data: Scores(data.scale),
    pictures=pictures,
    targets="guided images",
)
