"""The restoration task: model, losses, PSNR and SSIM, and a sheet of photographs before and after."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
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
from vimzoo.errors import UsageError
from vimzoo.metrics import broken, psnr, ssim
from vimzoo.models import CheckpointError
from vimzoo.models.inputs import ModelWithInputs
from vimzoo.models.restoration_base import Fitting
from vimzoo.models.routes import adopt_routing

from ..create import create_model
from ..losses import CharbonnierLoss, PairMixup
from ..record import Task
from ..reports.drawing import SHEET_IMAGES, sheet

LOSSES: dict[str, type[nn.Module]] = {"l1": nn.L1Loss, "charbonnier": CharbonnierLoss}


def build_model(cfg: dict[str, Any], data: Splits, whole: bool = False) -> nn.Module:
    """``timm.create_model(**model)`` with the channels of the data; ``model.start`` is a file of weights.

    Args:
        cfg: The configuration.
        data: What to train or to be evaluated on.
        whole: Every tensor of the file must fit, because the model is evaluated. Otherwise the tensors that fit are
            loaded, and the others are logged.

    Raises:
        UsageError: the model is not a restoration model, enlarges by another factor
            than the data, or refuses an argument; the file does not fit.
    """
    options = {key: value for key, value in cfg["model"].items() if key not in ("num_classes", "start")}
    options.setdefault("in_chans", data.input_size[0])
    model: Any = create_model(options)
    name, scale, start = options["model_name"], getattr(model, "scale", None), cfg["model"].get("start")
    if scale is None or isinstance(model, ModelWithInputs):
        raise UsageError(f"model.model_name={name}: task=restore needs a model from image to image")
    if scale != data.scale:
        raise UsageError(
            f"model.model_name={name} enlarges by {scale}, the data ({data.name}) by {data.scale}; "
            "set model.scale or data.scale"
        )
    if start is not None:
        try:
            if whole:
                model.load_pretrained(start)
                if "routing" not in options:
                    adopt_routing(model, start)
            else:
                print(f"start  from {start}{_left_out(model.load_fitting(start))}")
        except (OSError, CheckpointError) as error:
            raise UsageError(f"model.start: {error}") from error
    return model


def _left_out(fitting: Fitting) -> str:
    said = ""
    for names, what in zip(fitting, ("of the model begin anew", "of the file are left out"), strict=True):
        if names:
            said += (
                f"; {len(names)} tensors {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            )
    return said


def build_loss(
    cfg: dict[str, Any], data: Splits, task: str = "restore"
) -> tuple[PairMixup | None, nn.Module]:
    """The loss that ``loss`` names, and `PairMixup` if ``aug.mixup`` asks for it.

    ``loss`` is a name, or a mapping of ``name`` and the loss's arguments: ``{name: charbonnier, eps: 1.0e-3}``.

    Raises:
        UsageError: another loss or argument, or a way of mixing that images cannot be given.
    """
    asked = cfg["loss"]
    arguments = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    name = arguments.pop("name", None)
    if name not in LOSSES:
        raise UsageError(f"loss={asked}: task={task} takes {' or '.join(LOSSES)}")
    try:
        loss = LOSSES[name](**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"loss={asked}: {error}") from error
    mixup = dict(cfg["aug"]["mixup"])
    alpha, prob = mixup.pop("mixup_alpha", 0), mixup.pop("prob", 1.0)
    if strange := [key for key, value in mixup.items() if value]:
        raise UsageError(
            f"aug.mixup.{strange[0]}={mixup[strange[0]]}: task=restore takes mixup_alpha and prob only"
        )
    return PairMixup(alpha, prob) if alpha > 0 else None, loss


@dataclass
class Scores:
    """PSNR and SSIM of every image, measured by the papers' rule for ``scale``: see `measured`."""

    scale: int = 1
    l1: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count one batch of restored images (B, C, H, W) and originals, in 0..1; of NaN or infinity, NaN."""
        lost = broken(output).tolist()
        for restored, original, unknown in zip(output.float(), target, lost, strict=True):
            decibel, similarity = [math.nan] * 2 if unknown else measured(restored, original, self.scale)
            self.l1.append(F.l1_loss(restored, original).item())
            self.psnr.append(decibel)
            self.ssim.append(similarity)

    def sums(self) -> dict[str, Any]:
        """Values of the single images, in lists."""
        return {"l1": self.l1, "psnr": self.psnr, "ssim": self.ssim}

    def summary(self) -> dict[str, float]:
        """Mean absolute difference, PSNR in dB and SSIM, each the mean of the images' own."""
        return {"loss": fmean(self.l1), "psnr": fmean(self.psnr), "ssim": fmean(self.ssim)}


def measured(restored: Tensor, original: Tensor, scale: int) -> tuple[float, float]:
    """PSNR and SSIM as papers report them: super-resolution on luma without a border of ``scale`` pixels, the rest on
    all channels and all pixels.
    """
    crop = scale if scale > 1 else 0
    return psnr(restored, original, crop, y=scale > 1), ssim(restored, original, crop, y=scale > 1)


class PapersTiles(nn.Module):
    """A model as the papers' figures were obtained: images above 199 pixels in tiles, each on its own.

    Args:
        model: A restoration model; one that takes multiples of some size only runs on whole images.
        self_ensemble: Average over eight positions of every tile, as the papers' "+" rows.

    Raises:
        UsageError: a package for restoring pictures is missing.
    """

    def __init__(self, model: Any, self_ensemble: bool = False) -> None:
        super().__init__()
        try:
            from vimzoo.restoration import Restorer
        except ImportError as error:
            raise UsageError(
                f"task=restore: evaluation needs {error.name}; pip install 'vimzoo[restore]'"
            ) from error
        self.model = model
        tile = "official" if model.multiple_of == 1 else "none"
        self.restore = Restorer(model, tile=tile, self_ensemble=self_ensemble)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in 0..1 -> restored ones, not clipped, on the same device."""
        done = [self.restore(image.permute(1, 2, 0).float().cpu().numpy()) for image in x]
        return torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels in done]).to(x.device)


def details(scores: Scores, data: Splits, out: Path) -> dict[str, Any]:
    """The papers' table, one column a data set; ``images.csv`` in the folder ``out`` has every image.

    Images of different folders are different data sets, named by what tells the folders apart: ``high/Set5/HR`` and
    ``high/Set14/HR`` are Set5 and Set14.
    """
    images: Any = data.val if data.test is None else data.test
    files = [Path(path) for path in images.pairs.high[: len(scores.psnr)]]
    names = set_names([path.parent for path in files])
    rows = list(zip(files, scores.psnr, scores.ssim, strict=True))
    with (out / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data set", "image", "psnr", "ssim"])
        writer.writerows([names[path.parent], path.stem, f"{p:.4f}", f"{s:.6f}"] for path, p, s in rows)
    sets = {name: [row[1:] for row in rows if row[0].parent == folder] for folder, name in names.items()}
    return {"table": "\n" + papers_table({name: _means(pairs) for name, pairs in sets.items()})}


def set_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Names of folders, all different: their last parts, as many as it takes, without an end that all share."""
    parts = {folder: folder.parts for folder in folders}
    while len(parts) > 1 and len({part[-1:] for part in parts.values()}) == 1:
        parts = {folder: part[:-1] for folder, part in parts.items()}
    count = 1
    while len({part[-count:] for part in parts.values()}) < len(parts):
        count += 1
    return {folder: "/".join(part[-count:]) for folder, part in parts.items()}


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean PSNR and SSIM."""
    return fmean(psnr for psnr, _ in pairs), fmean(ssim for _, ssim in pairs)


def papers_table(scores: Mapping[str, tuple[float, float]]) -> str:
    """PSNR / SSIM by data set as a Markdown table."""
    cells = [f"{psnr:.2f} / {ssim:.4f}" for psnr, ssim in scores.values()]
    return "\n".join("| " + " | ".join(row) + " |" for row in (list(scores), ["---"] * len(cells), cells))


@torch.inference_mode()
def pictures(model: nn.Module, images: Images, scores: Scores, data: Splits, out: Path) -> None:
    """``restored.png`` in the folder ``out``: parts of the first photographs degraded, restored and as they were."""
    device = next(chain(model.parameters(), model.buffers())).device  # exported files have no parameters
    rows = []
    for low, high in (images[row] for row in range(min(SHEET_IMAGES, len(scores.psnr)))):
        restored = model(low[None].to(device))[0].float().cpu()
        before = imresize(low, data.scale) if data.scale > 1 else low
        shown = [
            (name + "  {:.2f} dB, {:.4f}".format(*measured(image, high, data.scale)), image)
            for name, image in (("bicubic" if data.scale > 1 else "before", before), ("restored", restored))
        ]
        rows.append([*shown, ("original", high)])
    sheet(rows, out / "restored.png")


TASK = Task(
    name="restore",
    targets="images",
    score="psnr",
    unit="dB",
    digits=2,
    label="PSNR",
    own_data=(
        "experiment=photos_denoise data=degraded_folder data.root=DIR data.sigma=25",
        "denoise your own photographs",
    ),
    files={"restored.png": "photographs before, restored and as they were"},
    build_model=build_model,
    build_judged=lambda cfg, data: build_model(cfg, data, whole=True),
    build_loss=build_loss,
    scores=lambda data: Scores(data.scale),
    pictures=pictures,
    details=details,
    as_measured=PapersTiles,
)
