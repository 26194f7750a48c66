"""From a plain configuration to a finished run folder. One process today; workers would be started here."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..data import Splits, eval_loader, train_loader
from . import checkpoint, report
from .build import State, build_data, build_state, check_run
from .loop import evaluate, fit, seed_everything


def launch(cfg: dict[str, Any], out: Path, overrides: Sequence[str] = ()) -> float:
    """Train as ``cfg`` says and leave everything in ``out``.

    Args:
        cfg: the groups of configs/train.yaml as plain containers.
        out: the run folder; nothing is written there before data, model and optimizer have been built.
        overrides: the command-line words behind ``cfg``, for the suggestions at the end.

    Returns:
        The best validation score in the task's unit (what a sweep maximises).

    Raises:
        UsageError: a request that cannot be met.
        FloatingPointError: a non-finite loss.
    """
    check_run(cfg)
    run, batch_size, workers = cfg["run"], cfg["data"]["batch_size"], cfg["data"]["workers"]
    data = build_data(cfg)
    seed_everything(run["seed"])
    train = train_loader(data, batch_size, run["seed"], workers, run["limit_batches"])
    val = eval_loader(data.val, data.eval_batch or batch_size, workers, run["limit_batches"])
    state = build_state(cfg, data, steps_per_epoch=len(train))
    if cfg["resume"]:
        checkpoint.restore(state, cfg["resume"])

    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False))
    if cfg["resume"]:
        _carry_best(Path(cfg["resume"]), out)
    report.header(state, data, cfg, out)
    fit(state, data, train, val, out, run["seed"], cfg)
    finish(state, data, cfg, out, overrides)
    return state.best


def _carry_best(resumed: Path, out: Path) -> None:
    """A resumed run may never beat the best epoch of the first one; its file then stays the answer."""
    best = resumed.with_name("best.pt")
    if best.is_file() and best.resolve() != (out / "best.pt").resolve():
        shutil.copyfile(best, out / "best.pt")


def finish(state: State, data: Splits, cfg: dict[str, Any], out: Path, overrides: Sequence[str] = ()) -> None:
    """Evaluate the best weights once on the test images, write the reports, say where they are."""
    checkpoint.load_averaged(state, out / "best.pt")
    split = "validation" if data.test is None else "test"
    images = data.val if data.test is None else data.test
    batch_size = data.eval_batch or cfg["data"]["batch_size"]
    loader = eval_loader(images, batch_size, cfg["data"]["workers"], cfg["run"]["limit_batches"])
    task, model, scores = state.task, state.averaged.eval(), state.task.scores(data)
    metrics = evaluate(model, loader, scores, state.device, state.amp)
    summary = {
        split: metrics,
        f"best_val_{task.score}": state.best,
        "epochs": state.history,
        "config": cfg,
        "versions": report.versions(),
    }
    (out / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    report.write_csv(state.history, out / "metrics.csv")
    report.curves(state.history, task, out / "curves.png")
    task.pictures(model, images, scores, data, out)
    report.closing(state, out, overrides, split, metrics[task.score])
