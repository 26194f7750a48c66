"""The fusion task: two pictures of one scene become one that keeps the structure of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.data import Images, Splits
from vimzoo.errors import UsageError
from vimzoo.metrics import broken, ssim

from .. import of_two_pictures
from ..fusion_loss import FusionLoss
from ..record import Task
from ..reports.drawing import SHEET_IMAGES, sheet


def build_model(cfg: dict[str, Any], data: Splits) -> nn.Module:
    """See `vimzoo.engine.of_two_pictures.build_model`."""
    return of_two_pictures.build_model(cfg, data, "fuse", ("x", "other"))


def build_loss(cfg: dict[str, Any], data: Splits) -> tuple[None, nn.Module]:
    """`FusionLoss`; ``loss`` is its name, ``fusion``, or a mapping of the name and its weights.

    Raises:
        UsageError: another loss or argument, or images are to be mixed.
    """
    asked = cfg["loss"]
    arguments = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    if arguments.pop("name", None) != "fusion":
        raise UsageError(f"loss={asked}: task=fuse takes fusion")
    try:
        loss = FusionLoss(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"loss={asked}: {error}") from error
    of_two_pictures.check_unmixed(cfg, "fuse")
    return None, loss


@dataclass
class Scores:
    """`FusionLoss` and SSIM of every image, the latter the mean of both pictures."""

    loss: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count one batch of joined pictures (B, C, H, W) and both (B, 2 C, H, W); of NaN or infinity, NaN."""
        criterion = FusionLoss()
        lost = broken(output).tolist()
        for joined, both, unknown in zip(output.float().clamp(0, 1), target, lost, strict=True):
            self.loss.append(criterion(joined[None], both[None]).item())
            self.ssim.append(math.nan if unknown else similarity(joined, both))

    def sums(self) -> dict[str, Any]:
        """Values of the single images, in lists."""
        return {"loss": self.loss, "ssim": self.ssim}

    def summary(self) -> dict[str, float]:
        """Means over the images."""
        return {"loss": fmean(self.loss), "ssim": fmean(self.ssim)}


def similarity(joined: Tensor, both: Tensor) -> float:
    """Mean SSIM of a picture (C, H, W) with two (2 C, H, W)."""
    return fmean(ssim(joined, picture) for picture in both.chunk(2))


@torch.inference_mode()
def pictures(model: nn.Module, images: Images, scores: Scores, data: Splits, out: Path) -> None:
    """``fused.png`` in the folder ``out``: parts of the first pictures, both and joined."""
    device = next(chain(model.parameters(), model.buffers())).device
    rows = []
    for given, both in (images[row] for row in range(min(SHEET_IMAGES, len(scores.ssim)))):
        joined = model(*(picture[None].to(device) for picture in given))[0].float().cpu().clamp(0, 1)
        title = f"joined  SSIM {similarity(joined, both):.4f}"
        rows.append([("first", given[0]), ("other", given[1]), (title, joined)])
    sheet(rows, out / "fused.png")


TASK = Task(
    name="fuse",
    score="ssim",
    unit="",
    digits=4,
    label="SSIM",
    own_data=(
        "experiment=multimodal_fusion_mamba data.root=DIR",
        "join your own pictures: DIR/ir and DIR/vis",
    ),
    files={"fused.png": "pictures of one scene, both and joined"},
    build_model=build_model,
    build_judged=build_model,
    build_loss=build_loss,
    scores=lambda data: Scores(),
    pictures=pictures,
    targets="pictures of one scene",
)
