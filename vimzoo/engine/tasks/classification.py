"""The classification task: model, loss, scores, and a sheet of predictions."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from vimzoo.data import Images, Splits
from vimzoo.errors import UsageError
from vimzoo.metrics import broken
from vimzoo.models.registry import family_of, known_facts

from ..classes import model_for, of_weights
from ..create import create_model, model_cfg
from ..losses import WeightedCrossEntropy, class_weights
from ..record import Task
from ..reports.drawing import drawn, printable


def build_model(cfg: dict[str, Any], data: Splits) -> nn.Module:
    """``timm.create_model(**model)`` with the classes and channels of the data, and its size if the model is
    made for one size; ``model.start`` is a file of weights to begin from. Where these name their classes, the
    classifier keeps those that the data have too.

    Raises:
        UsageError: the class count does not fit the data, or the model refuses an argument.
    """
    options = dict(cfg["model"])
    asked = options.pop("num_classes", None)
    if asked is not None and asked != len(data.classes):
        raise UsageError(
            f"model.num_classes={asked}, but the data ({data.name}) have {len(data.classes)} classes "
            f"({', '.join(data.classes[:5])}{', ...' if len(data.classes) > 5 else ''}); "
            "leave model.num_classes=null to take theirs"
        )
    check_clips(options["model_name"], data)
    options.setdefault("in_chans", data.input_size[0])
    if model_cfg(options["model_name"]).get("fixed_input_size"):
        options.setdefault("img_size", data.input_size[1:])
        if data.batching.any_shape:
            options.setdefault("dynamic_img_size", True)
    if data.frames is not None:
        options.setdefault("num_frames", data.frames)
    names = of_weights(options)
    if start := options.pop("start", None):
        # Ours keep the classifier of a file that has as many classes as the data, and no other.
        of_any_count = {} if family_of(options["model_name"]) is None else {"num_classes": 0}
        overlay = {**of_any_count, **options.get("pretrained_cfg_overlay", {}), "file": start}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    if names and (start or ":" in options["model_name"] or set(names) & set(data.classes)):
        return model_for(options, names, data.classes)
    return create_model({**options, "num_classes": len(data.classes)})


def check_clips(name: str, data: Splits) -> None:
    """Check that a registered model reads clips if, and only if, the data are clips.

    Raises:
        UsageError: it does not.
    """
    reads = name.split(".")[0] in known_facts("video")
    if ":" not in name and reads != (data.frames is not None):
        read, found = ("clips", "images") if reads else ("images", "clips")
        other = "vim_tiny_patch16_224" if reads else "videomamba_tiny_patch16_f8_224"
        raise UsageError(
            f"model.model_name={name}: reads {read}, but the data ({data.name}) are {found}; expected data of {read} "
            f"or a model of {found}, such as {other}"
        )


class ClipMixup(Mixup):
    """timm's ``Mixup`` that also takes clips (B, C, T, H, W), all of whose frames are mixed alike."""

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A batch and its class numbers -> the mixed batch and its soft targets."""
        shape = x.shape
        mixed, targets = super().__call__(x.flatten(1, -3) if x.dim() == 5 else x, target)
        return mixed.view(shape), targets


# Arguments of timm's Mixup that switch off what it does by default
NO_MIXUP = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0}


def build_loss(cfg: dict[str, Any], data: Splits) -> tuple[Mixup | None, nn.Module]:
    """timm's Mixup when ``aug.mixup`` mixes anything, and the loss that fits its targets.

    ``loss`` is a name, or ``{name: cross_entropy, class_weights: balanced}``; see `WeightedCrossEntropy`.

    Raises:
        UsageError: another loss than ``cross_entropy`` and ``bce``, or weights that do not fit the classes.
    """
    mixup, asked = NO_MIXUP | (cfg["aug"].get("mixup") or {}), cfg["loss"]
    loss = dict(asked) if isinstance(asked, dict) else {"name": asked}
    name, weights = loss.pop("name", None), loss.pop("class_weights", None)
    if name not in ("cross_entropy", "bce") or loss:
        raise UsageError(
            f"loss={asked}: task=classify takes cross_entropy or bce, the former with class_weights"
        )
    if weights is not None:
        if name == "bce":
            raise UsageError(f"loss={asked}: class_weights go with cross_entropy")
        mixed = mixup["mixup_alpha"] > 0 or mixup["cutmix_alpha"] > 0
        smoothing = 0.0 if mixed else mixup["label_smoothing"]
        weighted = WeightedCrossEntropy(class_weights(weights, data), smoothing)
        return ClipMixup(**mixup, num_classes=len(data.classes)) if mixed else None, weighted
    if mixup["mixup_alpha"] <= 0 and mixup["cutmix_alpha"] <= 0:
        hard = LabelSmoothingCrossEntropy if name == "cross_entropy" else BinaryCrossEntropy
        return None, hard(smoothing=mixup["label_smoothing"])
    # Mixup smooths the labels itself
    soft = SoftTargetCrossEntropy() if name == "cross_entropy" else BinaryCrossEntropy(smoothing=0.0)
    return ClipMixup(**mixup, num_classes=len(data.classes)), soft


@dataclass
class Scores:
    """Sums over batches; they stay on the device until ``summary`` asks for numbers."""

    loss: Tensor | float = 0.0
    top1: Tensor | float = 0.0
    top5: Tensor | float = 0.0
    count: int = 0
    predictions: list[Tensor] = field(default_factory=list)
    confidences: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count one batch: logits (B, C), class numbers (B,). Logits with NaN or infinity are wrong."""
        logits = output.float()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = (ranked == target[:, None]) & ~broken(logits)[:, None]
        self.loss = self.loss + F.cross_entropy(logits, target, reduction="sum")
        self.top1 = self.top1 + hits[:, 0].sum()
        self.top5 = self.top5 + hits.sum()
        self.count += len(target)
        self.predictions.append(ranked[:, 0])
        self.confidences.append(logits.softmax(dim=1).amax(dim=1))
        self.targets.append(target)

    def sums(self) -> dict[str, Any]:
        """All attributes."""
        return vars(self)

    def summary(self) -> dict[str, float]:
        """Mean cross-entropy; percentage of images whose class is ranked first, or among the first five."""
        return {
            "loss": float(self.loss) / self.count,
            "top1": 100 * float(self.top1) / self.count,
            "top5": 100 * float(self.top5) / self.count,
        }

    def confusion(self, classes: int) -> Tensor:
        """Counts (C, C): rows are true classes, columns predicted ones."""
        pairs = torch.cat(self.targets) * classes + torch.cat(self.predictions)
        return pairs.bincount(minlength=classes * classes).view(classes, classes)


def calibration_error(confidences: Tensor, hits: Tensor, bins: int = 15) -> float:
    """How far stated confidence is from accuracy: the expected calibration error, in percent.

    Guo et al., On calibration of modern neural networks (ICML 2017), section 3: mean over equal bins of
    confidence, weighted by their images, of the distance between mean confidence and accuracy.

    Args:
        confidences: probability of the predicted class, (N,). hits: whether it is the right one, (N,).
    """
    place = (confidences * bins).ceil().long().clamp(1, bins) - 1
    off = torch.zeros(bins, dtype=torch.float64).index_add(0, place, confidences.double() - hits.double())
    return 100 * float(off.abs().sum()) / len(confidences)


def details(scores: Scores, data: Splits, out: Path) -> dict[str, Any]:
    """Calibration error; ``confusion.png``, and ``classes.csv`` with precision and recall of every class."""
    truth, guesses = (torch.cat(part).cpu() for part in (scores.targets, scores.predictions))
    counts = scores.confusion(len(data.classes)).cpu()
    right, images, guessed = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    with (out / "classes.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "recall", "precision", "most taken for"])
        for index, name in enumerate(data.classes):
            others = counts[index].clone()
            others[index] = 0
            taken = data.classes[int(others.argmax())] if others.sum() else ""
            shares = (float(right[index] / max(1, int(n[index]))) for n in (images, guessed))
            writer.writerow([name, int(images[index]), *(f"{share:.4f}" for share in shares), taken])
    drawn("confusion.png", confusion_picture, counts, data.classes, out / "confusion.png")
    return {"calibration_error": calibration_error(torch.cat(scores.confidences).cpu(), guesses == truth)}


def confusion_picture(counts: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Share of each true class (rows) that was taken for each class (columns), named up to 50 classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    figure.colorbar(
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1), label="share of the true class"
    )
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 50:
        names = [printable(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(classes)), names, fontsize=8, parse_math=False)
    figure.savefig(path, dpi=120)


def pictures(model: nn.Module, images: Images, scores: Scores, data: Splits, out: Path) -> None:
    """``predictions.png`` in the folder ``out``; see ``prediction_sheet``."""
    guesses, truth = (torch.cat(part).cpu() for part in (scores.predictions, scores.targets))
    prediction_sheet(images, guesses, truth, data, out / "predictions.png")


def choose(predictions: Tensor, targets: Tensor, count: int) -> list[int]:
    """Indices for the sheet: mistakes first (half of it at most), then images spread over the split."""
    wrong = (predictions != targets).nonzero().flatten().tolist()[: count // 2]
    right = (predictions == targets).nonzero().flatten().tolist()
    spread = np.linspace(0, len(right) - 1, min(count - len(wrong), len(right))).round().astype(int)
    return wrong + [right[i] for i in spread]


def prediction_sheet(images: Images, predictions: Tensor, targets: Tensor, data: Splits, path: Path) -> None:
    """A sheet of up to 40 images with the predicted class; mistakes first, in red, with the true class.

    Args:
        images: the evaluated split, images (C, H, W) normalised as ``data`` says.
        predictions, targets: class numbers (N,).
    """
    from matplotlib.figure import Figure

    chosen = choose(predictions, targets, 40)
    rows = -(-len(chosen) // 8)
    figure = Figure(figsize=(10, 1.5 * rows + 0.6), layout="constrained")
    mistakes = int((predictions != targets).sum())
    plural = "" if mistakes == 1 else "s"
    figure.suptitle(f"{mistakes} mistake{plural} in {len(targets)} images, shown first", fontsize=11)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    for place, index in enumerate(chosen, start=1):
        image = images[index][0]
        if data.frames is not None:  # the middle frame, of several views the first
            image = image[0] if image.dim() == 5 else image
            image = image[:, data.frames // 2]
        picture = (image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
        right = bool(predictions[index] == targets[index])
        guess, truth = (printable(data.classes[int(part[index])]) for part in (predictions, targets))
        axes = figure.add_subplot(rows, 8, place)
        axes.imshow(picture.squeeze(2) if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            guess[:16] if right else f"{guess[:12]} (is {truth[:12]})",
            color="black" if right else "red",
            fontsize=8,
            parse_math=False,  # a name with $ is no formula
        )
        axes.axis("off")
    figure.savefig(path, dpi=120)


TASK = Task(
    name="classify",
    score="top1",
    unit="%",
    digits=1,
    label="accuracy",
    own_data=(
        "model=vim_tiny_patch16_224 data=folder data.root=DIR",
        "your own images, one folder per class",
    ),
    files={"predictions.png": "images with the predicted class, mistakes first"},
    build_model=build_model,
    build_judged=build_model,
    build_loss=build_loss,
    scores=lambda data: Scores(),
    pictures=pictures,
    details=details,
    taught=True,
)
