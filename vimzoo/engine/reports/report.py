"""Reports for people: console lines, CSV files, learning curves."""

import csv
import datetime
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.data import DataLoader

from vimzoo.data import Splits
from vimzoo.data.images.reading import TooManyUnreadable
from vimzoo.files import whole_file
from vimzoo.ops.runtime.shortfalls import chosen_backend, shortfalls
from vimzoo.ops.runtime.threads import counted

from ..configuration.overrides import quoted
from ..processes.parallel import World
from ..record import Task
from ..state import State

PLAIN_LINE_EVERY = 30.0  # seconds, where no progress bar can be drawn


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    import vimzoo

    return {
        "vimzoo": getattr(vimzoo, "__version__", "unknown"),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def git_state() -> str:
    """Commit of the code that runs, with a note if it has been changed since; empty outside a checkout."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*here, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + (", with changes" if changed.stdout else "")


def about(state: State) -> dict[str, Any]:
    """Provenance of a run: command, code, versions, machine."""
    gpu = torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else None
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "device": gpu or f"{platform.machine()} CPU, {counted(torch.get_num_threads())}",
            "processes": state.world.size,
        },
        "first_step": state.step + 1,
    }


def header(state: State, data: Splits, cfg: dict[str, Any], out: Path) -> None:
    """Print model, data, device and run folder."""
    million = sum(p.numel() for p in state.model.parameters()) / 1e6
    where = counted(torch.get_num_threads(), "CPU") if state.device.type == "cpu" else str(state.device)
    held = f"{len(data.val)} validation"
    held += "" if data.test is None else f", {len(data.test)} test"
    size = "x".join(map(str, data.input_size))
    slow = []
    if any(type(module).__module__.startswith("vimzoo.") for module in state.model.modules()):
        name, detail = chosen_backend(state.device.type)
        where += f", backend {name}" + (f" ({detail})" if detail else "")
        slow = shortfalls(state.device.type)
    print(f"model  {cfg['model']['model_name']}, {million:.2f} million parameters, on {where}")
    classes = f"{len(data.classes)} classes, " if data.classes else ""
    print(f"data   {data.name}: {len(data.train)} training, {held}; {classes}{size}")
    for note in data.notes:
        print(f"       {note}")
    left = _epochs(state.epochs - state.epoch)
    print(
        f"run    {_shown(out)}, {left}, seed {cfg['run']['seed']}; * marks the best epoch so far", flush=True
    )
    for item in slow:
        print(f"warning: missing {item.what}\n  {item.cost}; {item.remedy}", file=sys.stderr, flush=True)


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def going_on(state: State, begun: Path, changes: Sequence[str]) -> None:
    """Print where a run resumes, and which settings have changed."""
    batch = f", batch {state.batch + 1}" if state.batch else ""
    print(f"resume {_shown(begun)}, from epoch {state.epoch + 1}{batch}, step {state.step + 1} on")
    for change in changes:
        print(f"       {change}", flush=True)


def progress(loader: DataLoader, state: State) -> Iterator[Any]:
    """Iterate over an epoch with a progress bar; if output is not a terminal, print a line now and then."""
    from tqdm import tqdm

    name, first = f"epoch {state.epoch + 1}/{state.epochs}", state.batch
    live = sys.stderr.isatty() and state.world.main
    start = shown = time.monotonic()
    with tqdm(
        desc=name, total=len(loader), initial=first, leave=False, dynamic_ncols=True, disable=not live,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}",
    ) as bar:  # fmt: skip
        for index, batch in enumerate(loader, start=1):
            yield batch
            now = time.monotonic()
            bar.update()
            if now - shown < (0.2 if live else PLAIN_LINE_EVERY) or not state.world.main:
                continue
            shown = now
            text = status(state, len(loader), (now - start) / index)
            if live:
                bar.set_postfix_str(text, refresh=False)
            else:
                print(f"{name}  batch {first + index}/{len(loader)}  {text}", flush=True)


def status(state: State, steps_per_epoch: int, seconds: float) -> str:
    """Loss, learning rate, speed, memory and time left, from the mean seconds of a step."""
    images = state.sums["images"] / max(1e-9, state.sums["seconds"])
    left = (state.epochs - state.epoch) * steps_per_epoch - state.batch
    parts = [
        f"loss {state.loss:.4f}",
        f"lr {state.lr:.1e}",
        f"{images:.0f} images/s",
        f"{memory_gb(state.device):.1f} GB",
        f"{datetime.timedelta(seconds=round(left * seconds))} left",
    ]
    if state.history:
        parts.append(f"best {state.task.text(state.best)}")
    return ", ".join(parts)


def memory_gb(device: torch.device) -> float:
    """The most memory in use so far, in 10^9 bytes: the GPU's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def epoch_line(state: State, row: dict[str, float], improved: bool) -> None:
    """One line per finished epoch; the star marks a new best checkpoint."""
    width, task = len(str(state.epochs)), state.task
    print(
        f"epoch {state.epoch:{width}d}/{state.epochs}  train loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  val {task.label} "
        f"{task.text(row[f'val_{task.score}']):>7}{'*' if improved else ' '} "
        f"lr {row['lr']:.1e}  {row['images_per_s']:.0f} images/s  {row['seconds']:.1f} s",
        flush=True,
    )


def write_csv(history: list[dict[str, float]], path: Path) -> None:
    """One row per epoch; an atomic write, so that readers never see half a file."""
    with whole_file(path, "w", newline="") as file:
        names = dict.fromkeys(name for row in history for name in row)  # a resumed run may have more columns
        writer = csv.DictWriter(file, fieldnames=list(names) or ["epoch"])
        writer.writeheader()
        writer.writerows(history)


def unreadable(data: Splits, world: World, out: Path) -> None:
    """List the images that no process could read in ``unreadable.txt``; print how many if there are more than before.

    Raises:
        UsageError: they are too many.
    """
    for damaged in data.damaged:
        world.unite(damaged)
    path, too_many = out / "unreadable.txt", None
    try:
        names = data.unreadable()
    except TooManyUnreadable as error:
        names, too_many = error.names, error
    if world.main and names and (not path.exists() or len(names) > len(path.read_text().splitlines())):
        path.write_text("\n".join(names) + "\n")
        print(f"{len(names)} images cannot be read and are left out, listed in {_shown(path)}", flush=True)
    if too_many is not None:
        raise too_many


def curves(history: list[dict[str, float]], task: Task, path: Path) -> None:
    """Learning curves: loss (train, validation) and the task's validation score over epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("train_loss", "training (augmented)"), ("val_loss", "validation")):
        left.plot(epochs, [row[name] for row in history], marker=".", label=label)
    left.set(xlabel="epoch", ylabel="loss", yscale="log", title="loss")
    left.legend()
    right.plot(epochs, [row[f"val_{task.score}"] for row in history], marker=".", color="tab:orange")
    right.set(xlabel="epoch", ylabel=task.unit, title=f"validation {task.label}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)


FILES = {
    "best.pt": "weights of the best epoch, as the validation images judge",
    "last.pt": "everything needed to continue",
    "last.dcp": "everything needed to continue, in one part per process",
    "previous.pt": "the one before it, used where last.pt is damaged",
    "previous.dcp": "the one before it, used where last.dcp is damaged",
    "model": "the best weights for timm.create_model('local-dir:...')",
    "metrics.csv": "one row per epoch",
    "metrics.json": "the same with the final result, configuration and versions",
    "curves.png": "learning curves",
    "sizes.csv": "sizes of images and batches, and how many of each",
    "unreadable.txt": "images that could not be read",
    "wandb.id": "the run at Weights & Biases, which a resumed run continues",
    "config.yaml": "what was asked for",
    "about.json": "command, code, versions and machine",
}


def closing(state: State, out: Path, overrides: Sequence[str], split: str, score: float) -> None:
    """Where everything is, what to try next, and the result as the last line."""
    seconds, task = sum(row["seconds"] for row in state.history), state.task
    print(
        f"\ntrained {_epochs(state.epoch)} in {seconds:.0f} s, best validation {task.label} {task.text(state.best)}"
    )
    print(f"\nfiles in {_shown(out)}")
    for name, meaning in {**FILES, **task.files}.items():
        if (out / name).exists():
            print(f"  {name:16s} {meaning}")
    print("\ntry next")
    for command, effect in _suggestions(state, out, overrides):
        print(f"  # {effect}\n  {command}")
    if not any(word.startswith("data=") for word in overrides):
        words, meaning = task.own_data
        command = _command([word for word in overrides if word.startswith("--")])
        print(f"  # {meaning}; with their folder for DIR: {command} {words}")
    print(f"\n{split} {task.label} {task.text(score)}", flush=True)


def _suggestions(state: State, out: Path, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """(command, what it does); commands repeat how this run was called."""
    said = [word for word in overrides if not word.startswith(("resume=", "run.epochs="))]
    longer = [*said, quoted("resume", _shown(out)), f"run.epochs={2 * state.epochs}"]
    return [
        (
            f"python -m vimzoo.eval {shlex.quote(_shown(out))}",
            "all scores, pictures and speed of the best weights",
        ),
        (f"{_command(longer)}", "train on from here"),
        (f"{_command(['--help'])}", "everything else"),
    ]


def _command(words: Sequence[str]) -> str:
    """What a shell runs to call the trainer as this process was called, with other words behind it."""
    script = Path(sys.argv[0])
    name = f"python {shlex.quote(_shown(script))}" if script.suffix == ".py" else script.name
    return f"{name} {shlex.join(words)}".rstrip()


def _shown(path: Path) -> str:
    """Relative to where the user stands, if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
