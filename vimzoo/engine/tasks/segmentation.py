"""The segmentation task: model, losses, IoU, Dice and HD95, and a sheet of images with their masks."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.data import Images, Splits
from vimzoo.data.masks.samples import Case
from vimzoo.errors import UsageError
from vimzoo.metrics import broken
from vimzoo.models import CheckpointError, SegmentationModel
from vimzoo.segmentation import (
    SegmentationLoss,
    SurfaceScores,
    counts,
    cross_entropy,
    image_scores,
    mean_over,
    overlay,
    pooled,
    surface_scores,
)

from ..create import create_model, model_cfg
from ..losses import class_weights
from ..record import Task

SHEET_IMAGES = 4
SHARES = {"cross_entropy": (1.0, 0.0), "dice": (0.0, 1.0), "dice_cross_entropy": (1.0, 1.0)}
"""Names of losses -> shares of cross-entropy and Dice."""


def build_model(cfg: dict[str, Any], data: Splits, whole: bool = False) -> nn.Module:
    """``timm.create_model(**model)`` with the classes and channels of the data.

    ``model.start`` is a file of the network's weights or of its encoder's, ``model.pretrained`` takes the encoder's
    published ones. With ``data.fit=crop`` images larger than the crops are read in windows of their size.

    Args:
        cfg: The configuration.
        data: What to train or to be evaluated on.
        whole: Every tensor of the file must fit, because the model is evaluated.

    Raises:
        UsageError: the data have other classes; the model gives no scores of pixels, or refuses an
            argument; the file does not fit.
    """
    options = {key: value for key, value in cfg["model"].items() if key not in ("start", "pretrained")}
    asked, start, pretrained = (cfg["model"].get(key) for key in ("num_classes", "start", "pretrained"))
    if asked not in (None, len(data.classes)):
        raise UsageError(
            f"model.num_classes={asked}, but the data ({data.name}) have {len(data.classes)} classes; "
            "leave model.num_classes=null to take theirs"
        )
    options["num_classes"] = len(data.classes)
    options.setdefault("in_chans", data.input_size[0])
    name, saved = options["model_name"], ":" in options["model_name"]
    if cfg["data"].get("fit") == "crop":
        options.setdefault("window", list(data.input_size[1:]))
    if model_cfg(options.get("backbone") or name).get("fixed_input_size"):
        options.setdefault("img_size", data.input_size[1:])
    if saved:
        options["pretrained"] = pretrained
    model = create_model(options)
    if not isinstance(model, SegmentationModel):
        raise UsageError(f"model.model_name={name}: task=segment needs a model such as unet")
    try:
        if start and whole:
            model.load_pretrained(start)
        elif start:
            print(f"start  from {start}: {model.start_from(start)}")
        elif pretrained and not saved:
            print(f"start  with {model.load_encoder()}")
    except (OSError, CheckpointError) as error:
        raise UsageError(f"{'model.start' if start else 'model.pretrained=true'}: {error}") from error
    return model


def build_loss(cfg: dict[str, Any], data: Splits) -> tuple[None, nn.Module]:
    """The loss that ``loss`` names: one of `SHARES`, or a mapping of ``name``, ``class_weights`` and arguments.

    The arguments are those of `vimzoo.segmentation.SegmentationLoss`:
    ``{name: dice_cross_entropy, class_weights: balanced, batch: true}``.

    Raises:
        UsageError: there is no such loss or argument; images are to be mixed, or class weights do not fit.
    """
    asked = cfg["loss"]
    arguments = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    name, weights = arguments.pop("name", None), arguments.pop("class_weights", None)
    if name not in SHARES:
        raise UsageError(f"loss={asked}: task=segment takes {', '.join(SHARES)}")
    if mixed := [key for key, value in (cfg["aug"].get("mixup") or {}).items() if value and key != "prob"]:
        raise UsageError(f"aug.mixup.{mixed[0]}: task=segment does not mix images")
    shares = dict(zip(("cross_entropy", "dice"), SHARES[name], strict=True))
    by_class = None if weights is None else class_weights(weights, data)
    try:
        return None, SegmentationLoss(by_class, data.ignore_index, **{**shares, **arguments})
    except (TypeError, ValueError) as error:
        raise UsageError(f"loss={asked}: {error}") from error


@dataclass
class Scores:
    """Counts of every image and class, from which all scores follow.

    Attributes:
        classes: Number of classes.
        ignore_index: Class number of pixels that do not count.
        distances: Whether to measure distances of surfaces, too, which takes longer than all else.
        spacing: Height and width of a pixel in mm; None measures distances in pixels.
        cases: The volume that each image is a slice of, in the order of the images: slices of one are scored
            together, distances between its surfaces in mm. None scores every image alone.
        loss: Cross-entropy of each image.
        counted: (classes, 3) of each image, see `vimzoo.segmentation.counts`.
        surfaces: Of each image, by class; of volumes they are measured when all is counted.
        kept: Predicted and true class numbers of each slice, (2, H, W), where volumes need them; -1 is ignored.
        volumes: Scores of whole volumes, once they are computed.
    """

    classes: int
    ignore_index: int = 255
    distances: bool = False
    spacing: tuple[float, float] | None = None
    cases: Sequence[Case] | None = None
    loss: list[float] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    surfaces: list[list[SurfaceScores]] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    volumes: Scores | None = None

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count one batch: class scores (B, C, h, w), resized to the masks (B, H, W). NaN and infinity are wrong."""
        logits = output.float()
        if logits.shape[2:] != target.shape[1:]:
            logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
        for scores, truth, lost in zip(logits, target, broken(output).tolist(), strict=True):
            wrong = (truth.clamp(0, self.classes - 1) + 1) % self.classes
            guess = wrong if lost else scores.argmax(0)
            loss = (
                math.nan
                if lost
                else float(cross_entropy(scores[None], truth[None], ignore_index=self.ignore_index))
            )
            self.loss.append(loss)
            self.counted.append(counts(guess[None], truth[None], self.classes, self.ignore_index)[0].cpu())
            if not self.distances:
                continue
            known = torch.stack([guess, truth]).masked_fill(truth == self.ignore_index, -1)
            both = known.cpu().numpy().astype(np.int16)
            if self.cases is None:
                self.surfaces.append(self._distances(both[0], both[1], self.spacing))
            else:
                self.kept.append(both)

    def _distances(
        self, guess: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None
    ) -> list[SurfaceScores]:
        return [surface_scores(guess == number, truth == number, spacing) for number in range(self.classes)]

    @property
    def unit(self) -> str:
        """Of distances: ``mm`` or ``px``."""
        return "px" if self.spacing is None and self.cases is None else "mm"

    def whole(self) -> Scores:
        """The scores of whole volumes; these scores, where images are no slices or some were left out."""
        if self.cases is None or len(self.cases) != len(self.counted):
            return self
        if self.volumes is not None:
            return self.volumes
        groups: dict[int, list[int]] = {}
        for place in range(len(self.counted)):
            groups.setdefault(id(self.cases[place]), []).append(place)
        found = Scores(self.classes, self.ignore_index, self.distances, self.cases[0].spacing[1:])
        for places in groups.values():
            found.loss.append(fmean(self.loss[place] for place in places))
            found.counted.append(torch.stack([self.counted[place] for place in places]).sum(0))
            if self.distances:
                guess, truth = np.stack([self.kept[place] for place in places], axis=1)
                spacing = self.cases[places[0]].spacing
                found.surfaces.append(self._distances(guess, truth, spacing))
        self.volumes = found
        return found

    def names(self, given: Sequence[str]) -> list[str]:
        """Names of what is scored, volumes or the ``given`` images."""
        if self.cases is None or self.whole() is self:
            return list(given)[: len(self.counted)]
        return [case.name for case in {id(case): case for case in self.cases}.values()]

    def sums(self) -> dict[str, Any]:
        """Values of the single images, in lists."""
        return {
            "loss": self.loss,
            "counted": self.counted,
            "surfaces": self.surfaces,
            "kept": self.kept,
        }

    def summary(self) -> dict[str, float]:
        """Mean cross-entropy, and scores in per cent by the names of their rules.

        ``miou`` is the mean over all classes of the IoU of all pixels together. ``dice_pooled`` and ``dice_per_image``
        are means over the classes after the first, which is the background; the latter is the mean over images in
        which the class occurs on some side. ``hd95_pooled_px`` (or ``_mm``) is such a mean over images in which it
        occurs on both sides, and ``hd95_missing`` counts those with one side empty. Volumes take the place of images.
        """
        if (whole := self.whole()) is not self:
            return whole.summary()
        counted = torch.stack(self.counted)
        found = {
            "loss": fmean(self.loss),
            "miou": 100 * _mean(pooled(counted, "iou")),
            "dice_pooled": 100 * _mean(pooled(counted)[1:]),
            "dice_per_image": 100 * _mean(mean_over(image_scores(counted))[0][1:]),
        }
        if self.surfaces:
            hd95 = self.of_surfaces("hd95_pooled")[:, 1:]
            found |= {
                f"hd95_pooled_{self.unit}": _mean(mean_over(hd95)[0]),
                "hd95_missing": int(hd95.isinf().sum()),
            }
        return found

    def of_surfaces(self, name: str) -> Tensor:
        """One of the distances, (images, classes) float64."""
        return torch.tensor([[getattr(score, name) for score in row] for row in self.surfaces]).double()


def _mean(values: Tensor) -> float:
    return float(mean_over(values)[0])


def details(scores: Scores, data: Splits, out: Path) -> dict[str, Any]:
    """``classes.csv``: scores of each class; ``images.csv``: counts, Dice, IoU and distances of each image and class.

    Distances are in pixels or mm, as their names say. Volumes take the place of images.
    """
    images: Any = judged(data)
    names = scores.names(
        getattr(images, "names", None) or [str(index) for index in range(len(scores.counted))]
    )
    scores = scores.whole()
    counted = torch.stack(scores.counted)
    dice, iou = (image_scores(counted, measure) for measure in ("dice", "iou"))
    means, valid = mean_over(dice)
    ious = mean_over(iou)[0]
    kinds = ("hd95_pooled", "hd95_max", "hausdorff", "mean") if scores.surfaces else ()
    distances = {kind: scores.of_surfaces(kind) for kind in kinds}
    with (out / "classes.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        rules = ("iou_pooled", "dice_pooled", "iou_per_image", "dice_per_image", "images")
        writer.writerow(
            ["class", *rules, *(f"{kind}_{scores.unit}" for kind in kinds), *(["missing"] if kinds else [])]
        )
        for number, name in enumerate(data.classes):
            row = [pooled(counted, measure)[number].item() for measure in ("iou", "dice")]
            row += [float(ious[number]), float(means[number])]
            ends = [float(mean_over(distances[kind][:, number])[0]) for kind in kinds]
            missing = [int(distances[kinds[0]][:, number].isinf().sum())] if kinds else []
            writer.writerow([name, *map(_short, row), int(valid[number]), *map(_short, ends), *missing])
    with (out / "images.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["image", "class", "tp", "fp", "fn", "dice", "iou", *(f"{kind}_{scores.unit}" for kind in kinds)]
        )
        for place, image in enumerate(names):
            for number, name in enumerate(data.classes):
                values = [table[place, number].item() for table in (dice, iou, *distances.values())]
                writer.writerow([image, name, *counted[place, number].tolist(), *map(_short, values)])
    return {}


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


@torch.inference_mode()
def pictures(model: nn.Module, images: Images, scores: Scores, data: Splits, out: Path) -> None:
    """``masks.png`` in the folder ``out``: images with their masks and the predicted ones, the worst first."""
    from matplotlib.figure import Figure

    by_image = mean_over(image_scores(torch.stack(scores.counted))[:, 1:], 1)[0].nan_to_num(1.0)
    chosen = by_image.argsort()[:SHEET_IMAGES].tolist()
    figure = Figure(figsize=(9, 3.1 * len(chosen)), layout="constrained")
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    for row, index in enumerate(chosen):
        image, truth = images[index]
        guess = predicted(model, image[None].to(device), tuple(truth.shape))[0].cpu()
        pixels = (image * std + mean).clamp(0, 1)
        pixels = F.interpolate(pixels[None], size=truth.shape, mode="bilinear", antialias=True)[0]
        shown = (pixels.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        said = f"Dice {float(by_image[index]):.3f}, the mean of the classes"
        for column, (mask, title) in enumerate(((None, "image"), (truth, "mask"), (guess, said))):
            axes = figure.add_subplot(len(chosen), 3, 3 * row + column + 1)
            axes.imshow(shown if mask is None else overlay(shown, mask.numpy(), data.ignore_index))
            axes.set_title(title, fontsize=9)
            axes.axis("off")
    figure.savefig(out / "masks.png", dpi=120)


def predicted(model: nn.Module, images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Class numbers (B, *size) of images (B, C, h, w)."""
    logits = model(images).float()
    if logits.shape[2:] != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits.argmax(1)


def judged(data: Splits) -> Any:
    """The images that are evaluated after training."""
    return data.val if data.test is None else data.test


def scores_of(data: Splits, images: Any, distances: bool = False) -> Scores:
    """Empty sums over a split."""
    cases = getattr(images, "cases", None)
    return Scores(len(data.classes), data.ignore_index, distances, data.spacing, cases)


TASK = Task(
    name="segment",
    targets="masks",
    score="miou",
    unit="%",
    digits=1,
    label="mIoU",
    own_data=(
        "experiment=shapes data=masks data.root=DIR model=unet model.backbone=vmamba_tiny_s1l8",
        "your own images and masks",
    ),
    files={"masks.png": "images with their masks and the predicted ones, worst first"},
    build_model=build_model,
    build_judged=lambda cfg, data: build_model(cfg, data, whole=True),
    build_loss=build_loss,
    scores=lambda data: scores_of(data, data.val),
    final_scores=lambda data: scores_of(data, judged(data), distances=True),
    pictures=pictures,
    details=details,
)
