"""What saving costs, and for how long it holds training up: benchmarks/results/MACHINE/saving.json.

``python benchmarks/saving.py``: a checkpoint of one process, of two under DDP and of two under FSDP, written while
training waits (as after an epoch) and beside training (`run.save_every`). A step stands in for training: products of
matrices of about 20 ms on one thread, so that what the writing thread takes from it is seen too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import table, write
from torch import Tensor

from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.checkpoints import checkpoint, sharded
from vimzoo.engine.checkpoints.background import Copies
from vimzoo.engine.checkpoints.saver import Saver
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.processes.parallel import World
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.state import State

# Vim-B cut to 60.3 million parameters: weights, average and both moments are 0.96 GB in float32
MODELS = {
    "1 GB": ["model=vim_base_patch16_224", "+model.depth=15"],
    "small": ["model=timm", "model.model_name=test_vim"],
}
PROCESSES = {"one": [], "ddp": ["devices=2"], "fsdp": ["devices=2", "run.parallel=fsdp"]}


def settings(words: Sequence[str]) -> dict[str, Any]:
    """The digits as images that the model takes; they are not read."""
    return composed_settings([*words, "data.img_size=64", "run.device=cpu", "run.epochs=1"])


def trained(cfg: dict[str, Any], world: World) -> State:
    """A state with moments, as after a step."""
    state = build_state(cfg, build_data(cfg), 1, world)
    for parameter in state.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return state


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Work:
    """A step of training as far as the processor is concerned."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.factor, self.repeats = torch.randn(256, 256) / 16, 1
        while seconds(self.step) < 0.02:
            self.repeats += 1

    def step(self) -> Tensor:
        """Some 20 ms."""
        value = self.factor
        for _ in range(self.repeats):
            value = value @ self.factor
        return value

    def until(self, done: Callable[[], bool]) -> list[float]:
        """Times of at least ten steps, until ``done``."""
        times: list[float] = []
        while len(times) < 10 or not done():
            times.append(seconds(self.step))
        return times


def copying(state: State, copies: Copies) -> None:
    """The copy alone: of all tensors, or of this process's parts."""
    if state.sharded:
        content = sharded.tensors(state, moments=True)
        copies.of(_local(content))
    elif state.world.main:
        copies.of(checkpoint.content(state))


def _local(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _local(part) for name, part in value.items()}
    return value.to_local() if hasattr(value, "to_local") else value


def rounds(cfg: dict[str, Any], out: Path, count: Sequence[str], world: World) -> float:
    """What each process does; the first one leaves its times in ``out``."""
    state, saver, copies, work = trained(cfg, world), Saver(out, cfg), Copies(), Work()
    found: list[dict[str, float]] = []
    for _ in range(int(count[0]) + 1):  # the first one takes memory from the system
        world.wait()
        alone = work.until(lambda: True)
        copy = seconds(lambda: copying(state, copies))
        world.wait()
        waited = seconds(lambda: saver.save(state))
        world.wait()
        begin = time.perf_counter()
        stall = seconds(lambda: saver.save_beside(state))
        beside = work.until(lambda: saver._beside._job is None or saver._beside._job.done())
        saver.wait()
        found.append(
            {
                "save_s": waited,
                "copy_s": copy,
                "stall_s": stall,
                "stall_beyond_copy_s": stall - copy,
                "beside_s": time.perf_counter() - begin,
                "step_ms": 1e3 * statistics.median(alone),
                "step_beside_ms": 1e3 * statistics.median(beside),
                "longest_step_beside_ms": 1e3 * max(beside),
            }
        )
    torch.save(found[1:], out / f"times{world.rank}.pt")
    return 0.0


def main(arguments: list[str] | None = None) -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options, rows = parser.parse_args(arguments), []
    for model, words in MODELS.items():
        for kind, more in PROCESSES.items():
            with tempfile.TemporaryDirectory(dir=".") as name:
                out, cfg = Path(name), settings([*words, *more])
                if more:
                    spawn(rounds, cfg, out, [str(options.rounds)])
                else:
                    rounds(cfg, out, [str(options.rounds)], World())
                found = torch.load(out / "times0.pt")
                last = out / (checkpoint.LAST_PARTS if kind == "fsdp" else checkpoint.LAST)
                size = sum(path.stat().st_size for path in [last, *last.glob("*")] if path.is_file())
            medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
            rows.append({"model": model, "processes": kind, "checkpoint_mb": size / 1e6, **medians})
            table(rows[-1:], list(rows[-1]))
    write(
        "saving",
        rows,
        "Medians of process 0. save_s: a checkpoint while training waits. copy_s: the copy of its tensors alone. "
        "stall_s: how long run.save_every stalls training; beside_s: until that checkpoint is on the disk. step_ms: "
        "a step of about 20 ms alone, step_beside_ms and longest_step_beside_ms: while a checkpoint is written",
    )


if __name__ == "__main__":
    main()
