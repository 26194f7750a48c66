"""One file by torch.save against parts by torch.distributed.checkpoint, in one process.

``python benchmarks/checkpoint_forms.py`` writes benchmarks/results/MACHINE/checkpoint_forms.json. Both forms have the
same guarantees (a temporary name, fsync, checksums, a rename, the one before kept) and are timed interleaved, on the
states of benchmarks/saving.py: written while training waits, written beside training from a copy, and read back.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from common import table, write
from saving import MODELS, Work, seconds, settings, trained

from vimzoo.engine.checkpoints import checkpoint, conversion, sharded
from vimzoo.engine.checkpoints.background import Beside, Copies
from vimzoo.engine.processes.parallel import World
from vimzoo.engine.state import State

Write = Callable[[dict[str, Any], Path, bool], None]


def one_file(content: dict[str, Any], path: Path, best: bool = False) -> None:
    """torch.save, as a run of one process saves; best.pt is a second name for the same file."""
    checkpoint.write(content, path, best)


def parts(content: dict[str, Any], path: Path, best: bool = False) -> None:
    """torch.distributed.checkpoint without other processes; its checksums are ours, as in a sharded run.

    best.pt, which timm reads, is a file of its own with the averaged weights.
    """
    if best:
        weights = content["tensors"].get("model_ema", content["tensors"]["model"])
        checkpoint.write({"model": weights, **content["rest"]}, path.with_name(checkpoint.BEST))
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with warnings.catch_warnings():  # that one process alone writes is meant
        warnings.simplefilter("ignore")
        dcp.save(content["tensors"], checkpoint_id=temporary, no_dist=True)
    sums = sharded.checksums(temporary, World())
    checkpoint.write({**content["rest"], "checksums": sums}, temporary / sharded.PROGRESS)
    checkpoint.give_name(temporary, path)


def contents(state: State) -> dict[str, dict[str, Any]]:
    """What each form writes; the tensors are the same."""
    rest = {**checkpoint.progress(state), "moments": True}
    return {
        "file": checkpoint.content(state),
        "parts": {"tensors": sharded.tensors(state, moments=True), "rest": rest},
    }


FORMS: dict[str, tuple[str, Write, Callable[[Path], Any]]] = {
    "file": (checkpoint.LAST, one_file, checkpoint.read),
    "parts": (checkpoint.LAST_PARTS, parts, conversion.read),
}


def measured(form: str, state: State, copies: Copies, work: Work, out: Path) -> dict[str, float]:
    """One round of one form."""
    name, save, load = FORMS[form]
    path, beside = out / form / name, Beside()
    path.parent.mkdir(exist_ok=True)
    content = contents(state)[form]
    waited = seconds(lambda: save(content, path))
    improved = seconds(lambda: save(content, path, True))
    alone = work.until(lambda: True)
    begin = time.perf_counter()
    stall = seconds(lambda: beside.start(partial(save, copies.of(contents(state)[form]), path)))
    steps = work.until(lambda: beside._job is None or beside._job.done())
    beside.wait()
    ended = time.perf_counter() - begin
    files = [part for part in [path, *path.rglob("*")] if part.is_file()]
    return {
        "files": len(files),
        "mb": sum(part.stat().st_size for part in files) / 1e6,
        "save_s": waited,
        "save_best_s": improved,
        "stall_s": stall,
        "beside_s": ended,
        "step_ms": 1e3 * statistics.median(alone),
        "step_beside_ms": 1e3 * statistics.median(steps),
        "longest_step_beside_ms": 1e3 * max(steps),
        "read_s": seconds(lambda: load(path)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options, rows = parser.parse_args(arguments), []
    for model, words in MODELS.items():
        state, work = trained(settings(words), World()), Work()
        copies = {form: Copies() for form in FORMS}
        with tempfile.TemporaryDirectory(dir=".") as out:
            found = [
                {form: measured(form, state, copies[form], work, Path(out)) for form in FORMS}
                for _ in range(options.rounds + 1)
            ][1:]  # the first round takes memory from the system
        for form in FORMS:
            medians = {key: statistics.median(row[form][key] for row in found) for key in found[0][form]}
            ratio = statistics.median(row[form]["save_s"] / row["file"]["save_s"] for row in found)
            rows.append({"model": model, "form": form, **medians, "save_ratio": ratio})
            table(rows[-1:], list(rows[-1]))
    write(
        "checkpoint_forms",
        rows,
        "Medians of interleaved rounds, one process on one thread; other work may have run on the machine, so compare "
        "ratios. form: file is torch.save, parts is torch.distributed.checkpoint without other processes. save_s: "
        "while training waits; save_best_s: after the best epoch so far, with best.pt. stall_s: how long a "
        "save in the background stalls training; beside_s: until it is on the disk. step_ms: a step of about "
        "20 ms alone, "
        "step_beside_ms, longest_step_beside_ms: while a checkpoint is written. read_s: read whole with checksums. "
        "save_ratio: median over rounds of save_s against that of the file",
    )


if __name__ == "__main__":
    main()
