"""From a plain configuration to a finished run folder, in one process or several."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from vimzoo.data import Splits, closing, eval_loader, sample, train_loader
from vimzoo.errors import UsageError

from .build import build_data, build_state
from .checkpoints import export, lookup, restart, resume
from .checkpoints.saver import Saver, Stopped
from .configuration.check import check_run
from .configuration.naming import naming_settings
from .create import without_start
from .loop import evaluate, fit, seed_everything
from .processes.agree import check_data, check_folder
from .processes.claim import claimed
from .processes.cluster import launched
from .processes.parallel import World
from .processes.spawn import spawn
from .reports import report
from .reports.drawing import drawn
from .reports.output import patient
from .reports.track import open_tracker
from .state import State


def launch(
    cfg: dict[str, Any],
    out: Path,
    overrides: Sequence[str] = (),
    named: bool = True,
    world: World | None = None,
) -> float:
    """Train as ``cfg`` says and leave everything in ``out``.

    Args:
        cfg: the groups of configs/train.yaml as plain containers.
        out: the run folder. It is locked for this run; apart from the lock, nothing is written before data, model and
            optimizer are built.
        overrides: the command line's overrides behind ``cfg``, for the suggestions at the end.
        named: whether the user chose the folder. If not, and another run uses it, the next free name is taken.
        world: the processes, if already connected; by default those started by a launcher connect here.

    Returns:
        The best validation score in the task's unit (what a sweep maximises).

    Raises:
        UsageError: a request that cannot be met.
        FloatingPointError: a non-finite loss.
        Stopped: a signal stopped the run, which is saved.
        OSError: a checkpoint cannot be written.
    """
    check_run(cfg)
    with contextlib.ExitStack() as stack:
        if world is None:
            world = stack.enter_context(launched(cfg["run"]["timeout"]))
        if (
            dist.is_initialized()
            and f"devices={cfg['devices']}" in overrides
            and cfg["devices"] != world.size
        ):
            raise UsageError(
                f"devices={cfg['devices']}: {world.size} processes were started by a launcher; leave out devices="
            )

        def own(folder: Path) -> bool:
            return "resume=null" not in overrides and restart.is_own(cfg, folder)

        def claim() -> tuple[Path, str | None]:
            folder = stack.enter_context(claimed(out, cfg["resume"], named, own))
            return folder, "auto" if own(folder) else cfg["resume"]

        folder, asked = world.first(claim)
        check_folder(world, folder, cfg["run"]["parallel"])
        if folder != out:  # an unused default folder, named by the time of the start
            with contextlib.suppress(OSError):
                out.rmdir()
        while True:
            asked_now = {**cfg, "resume": asked}
            try:
                if cfg["devices"] > 1 and not dist.is_initialized():
                    return spawn(work, asked_now, folder, overrides)
                return work(asked_now, folder, overrides, world)
            except Stopped as stop:
                if not restart.launcher_goes_on(stop, world):
                    raise
                asked = "auto"


def work(cfg: dict[str, Any], out: Path, overrides: Sequence[str], world: World) -> float:
    """The work of each process of a run; see `launch`."""
    with patient(), deterministic(cfg["deterministic"]), naming_settings(cfg):
        return train(cfg, out, overrides, world)


def train(cfg: dict[str, Any], out: Path, overrides: Sequence[str], world: World) -> float:
    """Build everything, train, evaluate."""
    begun = world.first(lambda: lookup.wanted(cfg["resume"], out))
    run, batch_size, workers = cfg["run"], cfg["data"]["batch_size"], cfg["data"]["workers"]
    shared = dict(workers=workers, limit=run["limit_batches"], rank=world.rank, world=world.size)
    world.place.words = "reading the data"
    data = build_data(cfg)
    check_data(world, data)
    world.place.words = "building the model"
    seed_everything(run["seed"])
    asked = {key: cfg["data"][key] for key in ("repeats", "tokens", "balanced") if key in cfg["data"]}
    batches = train_loader(data, batch_size, run["seed"], **asked, **shared)
    val = eval_loader(data.val, data.eval_batch or batch_size, **shared)
    state = build_state(without_start(cfg) if begun else cfg, data, len(batches), world)
    changes = resume.restore(state, begun, cfg) if begun else []

    tracker = open_tracker(run["tracker"], out, cfg, state.step, world.main, begun and begun.parent)
    if world.main:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False))
        (out / "about.json").write_text(json.dumps(report.about(state), indent=2) + "\n")
        if begun:
            resume.carry_best(begun, out)
        report.header(state, data, cfg, out)
        if begun:
            report.going_on(state, begun, changes)
        if summary := batches.batch_sampler.summary():  # type: ignore[union-attr]
            print(f"sizes  {summary}", flush=True)
    every = run["save_every"] or {}
    saver = Saver(out, cfg, every.get("steps"), every.get("minutes"))
    try:
        with closing(batches, val):
            fit(state, data, batches, val, saver, tracker)
    finally:
        tracker.close()
    finish(state, data, cfg, out, overrides)
    return state.best


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Allow only deterministic operations within the block.

    Raises:
        UsageError: the run needs a nondeterministic operation; names it.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UsageError(f"deterministic=true: {str(error).split('. ')[0]}") from error
    finally:
        torch.use_deterministic_algorithms(False)


def finish(state: State, data: Splits, cfg: dict[str, Any], out: Path, overrides: Sequence[str] = ()) -> None:
    """Evaluate the best weights once on the test images, and write and announce the reports."""
    resume.load_best(state, out)
    split = "validation" if data.test is None else "test"
    images = everything = data.val if data.test is None else data.test
    batch_size, workers = data.eval_batch or cfg["data"]["batch_size"], cfg["data"]["workers"]
    if limit := cfg["run"]["limit_batches"]:
        images = sample(everything, limit * batch_size)
        data = replace(data, val=images, test=data.test and images)
    loader = eval_loader(images, batch_size, workers, None, state.world.rank, state.world.size)
    task, scores = state.task, state.task.judge(data)
    with closing(loader):
        metrics = evaluate(state.averaged, loader, scores, state.device, state.amp, state.world)
    model = export.whole_model(state, cfg, data)
    if not state.world.main:
        return
    summary = {
        split: metrics,
        f"best_val_{task.score}": state.best,
        "epochs": state.history,
        "config": cfg,
        "versions": report.versions(),
    }
    (out / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    export.save(model, data, out / "model")
    report.write_csv(state.history, out / "metrics.csv")
    drawn("curves.png", report.curves, state.history, task, out / "curves.png")
    drawn(", ".join(task.files), task.pictures, model, images, scores, data, out)
    if len(images) < len(everything):
        print(f"\nrun.limit_batches={limit}: scores are of {len(images)} of {len(everything)} {split} images")
    report.closing(state, out, overrides, split, metrics[task.score])
