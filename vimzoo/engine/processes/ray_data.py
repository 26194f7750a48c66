"""Work over a cluster of Ray, as a pipeline of Ray Data."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from vimzoo.errors import UsageError

__all__ = ["Do", "add_engine", "over_cluster"]

Do: TypeAlias = Callable[[list[str]], list[str]]
"""Processes items, which names stand for, and gives an answer for each. It may be called again with the same items."""
SMALLEST, LARGEST, BLOCKS = 16, 1024, 16
"""Items that a worker is given at once, and how often each worker is given some, if they suffice."""


class _Worker:
    """An actor: one model, made once."""

    def __init__(self, make: Callable[[], Do]) -> None:
        self.do = make()

    def __call__(self, block: dict[str, Any]) -> dict[str, list[str]]:
        names = [str(name) for name in block["name"]]
        return {"name": names, "answer": self.do(names)}


def add_engine(command: argparse.ArgumentParser) -> None:
    """Add the arguments ``--engine`` and ``--workers``."""
    engine = command.add_argument_group("cluster")
    engine.add_argument(
        "--engine",
        choices=("ray",),
        help="share the work over a cluster of Ray (extra `ray`), or the cores of this machine",
    )
    engine.add_argument(
        "--workers", metavar="N", type=int,
        help="models at once, with --engine ray (default: one per GPU, or one per machine without GPUs)",
    )  # fmt: skip


def over_cluster(
    make: Callable[[], Do], names: Sequence[str], workers: int | None = None
) -> Iterator[tuple[str, str]]:
    """Process items in workers that Ray places on the cluster; yields names and answers as they are finished.

    The cluster is that of the variable ``RAY_ADDRESS``, or this machine. Ray starts a worker that is lost again, and
    repeats what it had begun.

    Args:
        make: Called once in each worker; what it needs must be there on every machine.
        names: The items.
        workers: Number of workers; None is one per GPU, or one per machine if there are none. They share the GPUs, or
            the cores, equally.

    Raises:
        UsageError: Ray is not installed, or the cluster is too small.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"--engine ray: pip install 'vimzoo[ray]' installs it ({error})") from error
    began = not ray.is_initialized()
    if began:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        count, resources = _placed(ray, workers)
        size = min(max(len(names) // (count * BLOCKS), SMALLEST), LARGEST)
        items = ray.data.from_items(
            [{"name": name} for name in names], override_num_blocks=-(-len(names) // size)
        )
        answers = items.map_batches(
            _Worker, fn_constructor_args=(make,), batch_size=None, batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=count), **resources,
        )  # fmt: skip
        for block in answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            yield from zip(map(str, block["name"]), map(str, block["answer"]), strict=True)
    finally:
        if began:
            ray.shutdown()


def _placed(ray: Any, workers: int | None) -> tuple[int, dict[str, float]]:
    """The number of workers, and what Ray reserves for each."""
    there = ray.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    count = gpus or len(ray.nodes()) if workers is None else workers
    if count < 1:
        raise UsageError(f"--workers {count}: expected at least 1")
    if gpus:
        return count, {"num_gpus": 1 if count <= gpus else gpus / count}
    if count > cores:
        raise UsageError(
            f"--workers {count}: the cluster has {cores} cores; expected at most one worker per core"
        )
    return count, {"num_cpus": cores // count}
