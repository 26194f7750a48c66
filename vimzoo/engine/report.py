"""What a person sees: console lines, CSV, learning curves, a sheet of predictions."""

import csv
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import Images, Splits
from .build import State

PLAIN_LINE_EVERY = 30.0  # seconds, where no progress bar can be drawn


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import vimzoo

    return {
        "vimzoo": getattr(vimzoo, "__version__", "unknown"),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def header(state: State, data: Splits, cfg: dict[str, Any], out: Path) -> None:
    """What is about to be trained, on what, and where it goes."""
    million = sum(p.numel() for p in state.model.parameters()) / 1e6
    where = f"{torch.get_num_threads()} CPU threads" if state.device.type == "cpu" else str(state.device)
    held = f"{len(data.val)} validation"
    held += "" if data.test is None else f", {len(data.test)} test"
    size = "x".join(map(str, data.input_size))
    print(f"model  {cfg['model']['model_name']}, {million:.2f} million parameters, on {where}")
    print(f"data   {data.name}: {len(data.train)} training, {held}; {len(data.classes)} classes, {size}")
    print(f"run    {_shown(out)}, {state.epochs - state.epoch} epochs, seed {cfg['run']['seed']}", flush=True)


def progress(loader: DataLoader, state: State) -> Iterator[Any]:
    """Batches of one epoch under a live bar; where output is not a terminal, a plain line now and then."""
    from tqdm import tqdm

    name = f"epoch {state.epoch + 1}/{state.epochs}"
    if sys.stderr.isatty():
        with tqdm(loader, desc=name, unit="batch", leave=False, dynamic_ncols=True) as bar:
            for batch in bar:
                yield batch
                bar.set_postfix_str(f"loss {state.loss:.3f}, best {max(state.best, 0):.1f} %", refresh=False)
        return
    last = time.monotonic()
    for index, batch in enumerate(loader, start=1):
        yield batch
        if time.monotonic() - last > PLAIN_LINE_EVERY:
            print(f"{name}  batch {index}/{len(loader)}  loss {state.loss:.4f}", flush=True)
            last = time.monotonic()


def epoch_line(state: State, row: dict[str, float], improved: bool) -> None:
    """One line per finished epoch; the star marks a new best checkpoint."""
    width = len(str(state.epochs))
    print(
        f"epoch {state.epoch:{width}d}/{state.epochs}  train loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  val accuracy {row['val_top1']:5.1f} %{'*' if improved else ' '} "
        f"lr {row['lr']:.1e}  {row['images_per_s']:.0f} images/s  {row['seconds']:.1f} s",
        flush=True,
    )


def write_csv(history: list[dict[str, float]], path: Path) -> None:
    """One row per epoch; written to a temporary name and renamed, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]) if history else ["epoch"])
        writer.writeheader()
        writer.writerows(history)
    temporary.replace(path)


def curves(history: list[dict[str, float]], path: Path) -> None:
    """Learning curves: loss (train, validation) and validation accuracy over epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("train_loss", "training (augmented)"), ("val_loss", "validation")):
        left.plot(epochs, [row[name] for row in history], marker=".", label=label)
    left.set(xlabel="epoch", ylabel="loss", yscale="log", title="loss")
    left.legend()
    right.plot(epochs, [row["val_top1"] for row in history], marker=".", color="tab:orange")
    right.set(xlabel="epoch", ylabel="%", title="validation accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)


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
        picture = (images[index][0] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
        guess, truth = data.classes[int(predictions[index])], data.classes[int(targets[index])]
        axes = figure.add_subplot(rows, 8, place)
        axes.imshow(picture.squeeze(2) if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            guess[:16] if guess == truth else f"{guess[:12]} (is {truth[:12]})",
            color="black" if guess == truth else "red",
            fontsize=8,
        )
        axes.axis("off")
    figure.savefig(path, dpi=120)


FILES = {
    "best.pt": "weights of the best epoch, as the validation images judge",
    "last.pt": "everything needed to continue",
    "metrics.csv": "one row per epoch",
    "metrics.json": "the same with the final result, configuration and versions",
    "curves.png": "learning curves",
    "predictions.png": "images with the predicted class, mistakes first",
    "config.yaml": "what was asked for",
}


def closing(state: State, out: Path, overrides: Sequence[str], split: str, top1: float) -> None:
    """Where everything is, what to try next, and the result as the last line."""
    seconds = sum(row["seconds"] for row in state.history)
    print(f"\ntrained {state.epoch} epochs in {seconds:.0f} s, best validation accuracy {state.best:.1f} %")
    print(f"\nfiles in {_shown(out)}")
    for name, meaning in FILES.items():
        if (out / name).is_file():
            print(f"  {name:16s} {meaning}")
    print("\ntry next")
    for command, effect in _suggestions(state, out, overrides):
        print(f"  # {effect}\n  {command}")
    print(f"\n{split} accuracy {top1:.1f} %", flush=True)


def _suggestions(state: State, out: Path, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """(command, what it does); commands repeat how this run was called."""
    script = Path(sys.argv[0])
    name = f"python {_shown(script)}" if script.suffix == ".py" else script.name
    said = [word for word in overrides if not word.startswith(("resume=", "run.epochs="))]
    longer = [*said, f"resume={_shown(out / 'last.pt')}", f"run.epochs={2 * state.epochs}"]
    if not any(word.startswith("data=") for word in said):
        own = (
            f"{name} model=vim_tiny_patch16_224 data=folder data.root=DIR",
            "your own images, one folder per class",
        )
    else:
        kept = [word for word in said if not word.startswith("aug=")]
        own = (f"{name} {shlex.join([*kept, 'aug=imagenet'])}", "stronger augmentation, for long trainings")
    return [
        own,
        (f"{name} {shlex.join(longer)}", "train on from here"),
        (f"{name} --help", "everything else"),
    ]


def _shown(path: Path) -> str:
    """Relative to where the user stands, if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
