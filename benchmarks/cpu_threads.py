"""Two threads against one, idle and under load: ``python benchmarks/cpu_threads.py [grain|load|pool]``.

Writes ``benchmarks/results/MACHINE/cpu_threads_*.json``. ``grain`` and ``pool`` want a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import timm
import torch
from common import CORES, measure, measure_runtimes, run_parts, table, write

import vimzoo  # noqa: F401  registers the models
from vimzoo.models.threads import multiply_adds
from vimzoo.ops import scan_paths
from vimzoo.ops.paths.path import BIDIRECTIONAL
from vimzoo.ops.runtime import native, threads

CALLS = 100
MODELS = (("test_vim", 64), ("test_vmamba", 64), ("test_mambair", 32))


def grain(quick: bool) -> None:
    """A scan of more and more tokens, and models on larger and larger images: when is a second thread worth it?"""
    rows = []
    for length in (16, 32, 64, 128, 256, 512, 1024):
        rows.append(
            {
                "what": "scan_paths, 192 channels, 16 states, 2 directions",
                "size": length,
                **_scan(length, quick),
            }
        )
    for name, sizes in (("test_vim", (64, 128, 256, 512)), ("test_mambair", (16, 32, 64, 128))):
        for size in sizes:
            rows.append({"what": name, "size": size, **_model(name, size, quick)})
    table(rows, ["what", "size", "work", "one_ms", "two_ms", "ratio"])
    about = (
        "milliseconds with one thread and with two, no grain applied; ratio two / one; work in nanoseconds (scan) or "
        "products with weights (models)"
    )
    write("cpu_threads_grain", rows, about, extra={"load": os.getloadavg()[0]})


def _scan(length: int, quick: bool) -> dict[str, Any]:
    work = (0.6 + 0.08 * 16) * 2 * 192 * length
    return {"work": work, **_compared(_one_scan(length), quick)}


def _one_scan(length: int) -> Callable[[], torch.Tensor]:
    """A scan of so many tokens."""
    x, rows = torch.randn(1, length, 192), torch.randn(1, length, 2, 12 + 32)
    rates, weight, bias = -torch.rand(2, 192, 16), torch.randn(2, 192, 12), torch.zeros(2, 192)
    return partial(scan_paths, x, rows, rates, weight, bias, paths=BIDIRECTIONAL)


def _model(name: str, size: int, quick: bool) -> dict[str, Any]:
    options = {} if "mambair" in name else {"img_size": size}
    model, image = timm.create_model(name, **options).eval(), torch.rand(1, 3, size, size)
    return {"work": multiply_adds(model, image.shape), **_compared(lambda: model.forward(image), quick)}


@torch.inference_mode()
def _compared(call: Callable[[], Any], quick: bool) -> dict[str, float]:
    def with_threads(count: int) -> Callable[[], Any]:
        def run() -> None:
            torch.set_num_threads(count)
            call()

        return run

    before, threads.GRAIN = threads.GRAIN, 1
    found = measure({"one": with_threads(1), "two": with_threads(2)}, rounds=5 if quick else 15)
    threads.GRAIN = before
    one, two = (found[name]["median"] * 1e3 for name in ("one", "two"))
    return {"one_ms": one, "two_ms": two, "ratio": two / one}


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Other processes that keep all cores but one busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(max(1, CORES - 1))]
    try:
        yield
    finally:
        for other in others:
            other.kill()


def load(quick: bool) -> None:
    """The worst of a hundred calls of small models while another process keeps a core busy."""
    with busy():
        rows = [_under_load(name, size, 2 if quick else 5) for name, size in MODELS]
    table(rows, ["model", "size", "one_ms", "two_ms", "worst_one_ms", "worst_two_ms", "worst_ratio"])
    about = f"median and worst of {CALLS} calls beside a busy process, medians over interleaved rounds"
    write("cpu_threads_load", rows, about, extra={"load": os.getloadavg()[0]})


@torch.inference_mode()
def _under_load(name: str, size: int, rounds: int) -> dict[str, Any]:
    model, image = timm.create_model(name).eval(), torch.rand(1, 3, size, size)
    medians: dict[int, list[float]] = {1: [], 2: []}
    worsts: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count in (1, 2):
            torch.set_num_threads(count)
            times = []
            for _ in range(CALLS):
                begin = time.perf_counter()
                model(image)
                times.append((time.perf_counter() - begin) * 1e3)
            medians[count].append(statistics.median(times))
            worsts[count].append(max(times))
    one, two, worst_one, worst_two = (
        statistics.median(values[count]) for values in (medians, worsts) for count in (1, 2)
    )
    return {
        "model": name, "size": size, "one_ms": one, "two_ms": two, "worst_one_ms": worst_one,
        "worst_two_ms": worst_two, "worst_ratio": worst_two / worst_one,
    }  # fmt: skip


def pool(quick: bool) -> None:
    """OpenMP's threads, which torch has too, and the kernels' own pool beside torch's."""
    rows = []
    for beside, others in (("nothing", contextlib.nullcontext()), ("a busy process", busy())):
        with others:
            rows += [{"what": "scan_paths", "size": 784, "beside": beside, **_pooled(_one_scan(784), quick)}]
            for name, size in (
                ("vim_tiny_patch16_224", 224),
                ("vmamba_tiny_s1l8", 224),
                ("mambair_light_x2", 64),
            ):
                model, image = timm.create_model(name).eval(), torch.rand(1, 3, size, size)
                call = partial(model, image)
                rows.append({"what": name, "size": size, "beside": beside, **_pooled(call, quick)})
    table(rows, ["what", "size", "beside", "one_ms", "openmp_ms", "pool_ms", "ratio"])
    about = (
        "milliseconds with one thread, and with two of OpenMP's or of the pool in pool.c, which torch's OpenMP runs "
        "beside; ratio pool / OpenMP"
    )
    write("cpu_threads_pool", rows, about)


@torch.inference_mode()
def _pooled(call: Callable[[], Any], quick: bool) -> dict[str, float]:
    library = native.open_library(native.load()[1])

    def run(count: int, own: int) -> None:
        torch.set_num_threads(count)
        library.vimzoo_use_pool(own)
        call()

    ways = {"one_ms": partial(run, 1, 0), "openmp_ms": partial(run, 2, 0), "pool_ms": partial(run, 2, 1)}
    results = measure_runtimes(ways, 2, rounds=5 if quick else 45, budget=20.0)
    found = {name: result["median"] * 1e3 for name, result in results.items()}
    library.vimzoo_use_pool(0)
    return {**found, "ratio": found["pool_ms"] / found["openmp_ms"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["grain", "load", "pool", []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    asked = parser.parse_args()
    run_parts({"grain": grain, "load": load, "pool": pool}, asked.parts, asked.quick)
