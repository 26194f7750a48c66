"""Evaluate a trained or a published model, or an exported file: ``python -m vimzoo.eval [RUN] [key=value ...]``.

Started by torchrun, the processes share the images; process 0 writes and prints what one process would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from .commands import Parser, run_command, slow_half
from .data import Splits, closing, eval_loader, sample
from .data.batches.several import given
from .engine import classes, evaluate
from .engine.build import build_data, pick_device
from .engine.checkpoints.remembered import trained_on
from .engine.configuration.check import AMP, check_run
from .engine.configuration.words import composed_settings
from .engine.finished import best_model, newest_run, run_settings
from .engine.loop import of_views, seed_everything
from .engine.processes.agree import check_data
from .engine.processes.parallel import World
from .engine.processes.sharing import in_turn, shared_command
from .engine.record import Task
from .engine.reports.drawing import drawn
from .engine.tasks import find_task
from .errors import UsageError
from .exporting.evaluating import EvaluatedFile
from .exporting.running import RUNNERS, RUNTIME_HELP
from .models.opening import find_model
from .models.routes import ROUTINGS

EXAMPLES = """examples:
  python -m vimzoo.eval                                     # the newest run below outputs/, on its test images
  python -m vimzoo.eval outputs/DATE/TIME data.img_size=32 run.device=cpu
  python -m vimzoo.eval model=vim_tiny_patch16_224 model.pretrained=true data=folder data.root=DIR \\
    data.test_fraction=1                                    # every image of DIR/CLASS/*.jpg
  python -m vimzoo.eval RUN --sizes 224 288 384             # the scores at each of these sizes
  python -m vimzoo.eval RUN --model FILE.onnx               # an exported file on the images of a run
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = Parser(
        prog="python -m vimzoo.eval",
        description="Evaluate the best weights of a run, or any model that the trainer accepts.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "words", nargs="*", metavar="RUN | key=value", help="a run folder, and overrides of its settings"
    )
    command.add_argument(
        "--model",
        metavar="RUN | NAME | FILE",
        help="a run folder, a model with published weights, or an exported file",
    )
    command.add_argument("--runtime", choices=RUNNERS, help=RUNTIME_HELP)
    command.add_argument(
        "--split", choices=("test", "val"), help="split to evaluate (default: test if there is one)"
    )
    command.add_argument(
        "--out",
        type=Path,
        help="folder for pictures and tables (default: RUN/eval, or eval; of files eval-NAME)",
    )
    command.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="evaluate at each of these values of data.img_size, with one output folder per size",
    )
    command.add_argument(
        "--routing",
        choices=ROUTINGS,
        help="routes of MambaIRv2: random or the likeliest (default: as the weights record)",
    )
    command.add_argument("--json", action="store_true", help="print the scores as JSON")
    return command


def by_size(
    words: Sequence[str],
    sizes: Sequence[int],
    split: str | None = None,
    out: Path | None = None,
    world: World | None = None,
    file: EvaluatedFile | None = None,
) -> dict[str, dict[str, Any]]:
    """The scores of `evaluation` at each image size, by size."""
    world = world or World()
    words = words or [world.first(lambda: str(newest_run()))]
    folders = _folders(words)
    out = out or _output(Path(*folders[:1]), file)
    return {
        str(size): evaluation([*words, f"data.img_size={size}"], split, out / f"{size}px", world, file)
        for size in sizes
    }


def _folders(words: Sequence[str]) -> list[str]:
    """Words that are not settings; the name of a run folder may contain ``=``."""
    return [word for word in words if "=" not in word or (Path(word) / "config.yaml").is_file()]


def _output(run: Path | None, file: EvaluatedFile | None) -> Path:
    """The folder for results by default."""
    return (run or Path()) / (f"eval-{file.path.stem}" if file else "eval")


def evaluation(
    words: Sequence[str],
    split: str | None = None,
    out: Path | None = None,
    world: World | None = None,
    file: EvaluatedFile | None = None,
) -> dict[str, Any]:
    """Run the evaluation; returns the scores that are printed and written to ``out/eval.json``.

    Args:
        file: an exported file to be evaluated in place of the model that the words mean.
        world: the processes that share the images. Only process 0 writes files and returns complete scores.

    Raises:
        UsageError: no such run, setting, model or data.
    """
    world = world or World()
    folders = _folders(words)
    settings = [word for word in words if word not in folders]
    if len(folders) > 1:
        raise UsageError(f"one run folder at a time, not {', '.join(folders)}")
    run = Path(folders[0]) if folders else None if settings else world.first(newest_run)
    cfg = world.first(lambda: run_settings(run, settings) if run else composed_settings(settings))
    check_run(cfg)
    task = find_task(cfg["task"])
    amp = AMP[cfg["run"]["amp"]]
    opened = in_turn(lambda: file.open(cfg, amp), world) if file else None
    data = in_turn(
        lambda: _file_data(cfg, file, opened) if file else _numbered(build_data(cfg), cfg, run), world
    )
    check_data(world, data)
    if not run:
        cfg["model"] = classes.evaluated(cfg["model"], data)
    if world.main:
        for note in data.notes:
            print(f"data   {note}", file=sys.stderr)
    split = split or ("val" if data.test is None else "test")
    images = getattr(data, split)
    if images is None:
        raise UsageError(f"--split={split}: {data.name} has no such images")
    device = pick_device("cpu" if file else cfg["run"]["device"], world.local_rank)
    if file:
        amp = None  # the file computes in it
    if world.main:
        slow_half(amp, device, "run.amp")
    if crop := cfg["data"].get("eval_crop"):
        classes.warn(
            f"of larger images the middle {crop} x {crop} pixels are evaluated; data.eval_crop=null takes whole images"
        )
    model = opened or in_turn(
        lambda: best_model(run, cfg, data) if run else _published(cfg, data, task), world
    )
    model = task.as_measured(model.to(device).eval())
    batch_size = data.eval_batch or cfg["data"]["batch_size"]
    limit = cfg["run"]["limit_batches"]
    if run and limit and not any(word.startswith("run.limit_batches=") for word in settings):
        classes.warn(f"the run had run.limit_batches={limit}; here all images are evaluated")
    elif limit:
        images = sample(images, limit * batch_size)
    data = replace(data, val=images, test=images)  # pictures and tables are of these
    loader = eval_loader(images, batch_size, cfg["data"]["workers"], None, world.rank, world.size)
    seed_everything(cfg["run"]["seed"])
    scores = task.judge(data)
    count = len(images)  # fewer under run.limit_batches
    numbers: dict[str, Any] = {"split": split, "images": count}
    if data.classes and data.crop_pct < 1:
        numbers["crop_pct"] = data.crop_pct  # the share of each side that the model sees
    if crop:
        numbers["eval_crop"] = crop
    if run and (seen := trained_on(run, data, split)):
        numbers["trained_on"] = seen
    world.wait()
    begin = time.perf_counter()
    with closing(loader):
        numbers |= evaluate(model, loader, scores, device, amp, world)
        numbers["images_per_s"] = count / (time.perf_counter() - begin)
        numbers["model_images_per_s"] = sum(world.gather(throughput(model, loader, device, amp)))
    if not world.main:
        return numbers
    out = out or _output(run, file)
    out.mkdir(parents=True, exist_ok=True)
    numbers |= task.details(scores, data, out)
    (out / "eval.json").write_text(json.dumps(numbers, indent=2) + "\n")
    drawn(", ".join(task.files), task.pictures, model, images, scores, data, out)
    return numbers | {"folder": str(out)}


def _file_data(cfg: dict[str, Any], file: EvaluatedFile, model: Any) -> Splits:
    """The data as an exported file takes them, with its class numbers."""
    facts = getattr(model, "pretrained_cfg", {})
    names = facts.get("label_names")
    if names is None and model.num_classes == classes.IMAGENET:
        names = classes.imagenet_names()
    data = classes.named_data(build_data(cfg, facts or None), names and tuple(names), str(file.path))
    file.check(model, data)
    return data


def _numbered(data: Splits, cfg: dict[str, Any], run: Path | None) -> Splits:
    """The data with the class numbers of the weights."""
    return classes.run_data(data, run) if run else classes.published_data(data, cfg["model"])


def _published(cfg: dict[str, Any], data: Splits, task: Task) -> nn.Module:
    """The model that the configuration names, with its weights."""
    options = cfg["model"]
    if not options.get("start") and not options.get("pretrained") and ":" not in options["model_name"]:
        classes.warn(
            f"{options['model_name']} has random weights here; set model.start=FILE or model.pretrained=true"
        )
    return task.build_judged(cfg, data)


@torch.inference_mode()
def throughput(
    model: nn.Module, loader: DataLoader, device: torch.device, amp: torch.dtype | None, seconds: float = 1.0
) -> float:
    """Images per second of the model alone, on the loader's first batch, repeated for ``seconds``.

    0 if the loader has no batch, because there are fewer images than processes.
    """
    if len(loader) == 0:
        return 0.0
    images = given(next(iter(loader))[0]).to(device)

    def forward() -> None:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            of_views(model, images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    forward()
    begin, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        forward()
        count += len(images)
    return count / spent


def model_words(given: str | None) -> list[str]:
    """The words equivalent to ``--model``: a run folder, or the settings of a model with its weights.

    Raises:
        UsageError: there is no such run or model.
    """
    if given is None:
        return []
    if (Path(given) / "config.yaml").is_file():
        return [given]
    source = find_model(given).source
    return ["model=timm", f"model.model_name='{source}'", "model.pretrained=true"]


def show_sizes(rows: dict[str, dict[str, Any]]) -> None:
    """Print one line per size."""
    names = [name for name, value in next(iter(rows.values())).items() if isinstance(value, float)]
    print("  ".join(["  px", *names]))
    for size, numbers in rows.items():
        print("  ".join([f"{size:>4s}", *(f"{numbers[name]:{len(name)}.3f}" for name in names)]))


def command(asked: argparse.Namespace, world: World) -> int:
    """Evaluate as the parsed arguments say, and print; returns the exit status.

    Raises:
        UsageError: the request cannot be met.
    """
    file = EvaluatedFile.chosen(asked.model, asked.runtime, asked.routing)
    words = [*([] if file else model_words(asked.model)), *asked.words]
    if asked.routing:
        words = words or [world.first(lambda: str(newest_run()))]
        words.append(f"++model.routing={asked.routing}")
    # Whatever else is printed on the way must not stand in the JSON
    with contextlib.redirect_stdout(sys.stderr if asked.json else sys.stdout):
        if asked.sizes:
            numbers = by_size(words, asked.sizes, asked.split, asked.out, world, file)
        else:
            numbers = evaluation(words, asked.split, asked.out, world, file)
    if not world.main:
        return 0
    if asked.json:
        print(json.dumps(numbers, indent=2))
    elif asked.sizes:
        show_sizes(numbers)
    else:
        for name, value in numbers.items():
            print(f"{name:20s} {value:.4f}" if isinstance(value, float) else f"{name:20s} {value}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return shared_command(parser().parse_intermixed_args, arguments, command)


if __name__ == "__main__":
    run_command(main)
