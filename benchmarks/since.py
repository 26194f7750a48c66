"""This checkout against another one: ``python benchmarks/since.py CHECKOUT [CASE...] [--seconds S]``.

Every case runs in two processes, one that imports the package of each checkout, which take turns; both need their
kernels built. Writes ``benchmarks/results/MACHINE/cpu_since.json``; rows of cases that are not named stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Case(NamedTuple):
    """What is timed.

    Args:
        what: ``"inference"``, ``"step"`` (a training step: forward, backward, AdamW) or ``"scan"`` (forward and
            backward of a layer's scan).
        model: Its name, or the layer's.
        px, batch, threads, dtype: With ``"step"``, bfloat16 is autocast's.
    """

    what: str
    model: str
    px: int
    batch: int
    threads: int
    dtype: str


VIM, VMAMBA, MAMBAIR = "vim_tiny_patch16_224", "vmamba_tiny_s1l8", "mambair_light_x2"
CASES = {
    f"{case.what}-{case.model.split('_')[0]}-{case.dtype}": case
    for case in [
        *(Case("inference", MAMBAIR, 128, 1, 1, dtype) for dtype in DTYPES),
        *(Case("inference", VIM, 224, 1, 1, dtype) for dtype in DTYPES),
        *(Case("inference", VMAMBA, 224, 1, 1, dtype) for dtype in DTYPES),
        *(Case("step", model, 224, 8, 2, dtype) for model in (VIM, VMAMBA) for dtype in DTYPES),
        *(Case("step", MAMBAIR, 64, 2, 2, dtype) for dtype in DTYPES),
    ]
}


def call_of(case: Case) -> Callable[[], Any]:
    """What a process calls again and again, with the package that it imports."""
    import timm

    import vimzoo  # noqa: F401  registers the models

    torch.manual_seed(0)
    torch.set_num_threads(case.threads)
    model, image = timm.create_model(case.model), torch.rand(case.batch, 3, case.px, case.px)
    dtype = DTYPES[case.dtype]
    if case.what == "inference":
        model, image = model.eval().to(dtype), image.to(dtype)

        def infer() -> None:
            with torch.inference_mode():
                model(image)

        return infer
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(image).float().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def serve(case: Case) -> None:
    """Answers every line of standard input with the seconds of a call, with one thread those of the processor."""
    call = call_of(case)
    clock = time.process_time if case.threads == 1 else time.perf_counter
    for _ in sys.stdin:
        start = clock()
        call()
        print(clock() - start, flush=True)


def compare(case: str, before: Path, seconds: float) -> dict[str, Any]:
    """Milliseconds of both checkouts, and their ratio."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, str(folder), "--serve", case],
            env={**os.environ, "PYTHONPATH": str(folder)},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, folder in (("before", before), ("now", ROOT))
    }
    times: dict[str, list[float]] = {name: [] for name in processes}

    def turn() -> None:
        for name, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            print(file=process.stdin, flush=True)
            times[name].append(float(process.stdout.readline()))

    turn()
    end = time.perf_counter() + seconds
    while len(times["now"]) < 6 or time.perf_counter() < end:
        turn()
    for process in processes.values():
        process.communicate()
    median = {name: statistics.median(found[1:]) for name, found in times.items()}
    return {
        **CASES[case]._asdict(),
        "before_ms": median["before"] * 1e3,
        "ms": median["now"] * 1e3,
        "x_before": median["now"] / median["before"],
        "rounds": len(times["now"]) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of the other checkout")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each case")
    parser.add_argument("--serve", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    if options.serve:
        serve(CASES[options.serve])
        return
    from common import kept, table, write  # of this checkout; the processes above import another package

    rows = []
    for case in options.cases or CASES:
        rows.append(compare(case, options.checkout.resolve(), options.seconds))
        print(json.dumps(rows[-1]), flush=True)
    table(rows, list(rows[0]))
    if options.dry:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=options.checkout,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for row in rows:
        row["before"] = commit
    new = {tuple(row[key] for key in Case._fields) for row in rows}
    old = [row for row in kept("cpu_since") if tuple(row[key] for key in Case._fields) not in new]
    write(
        "cpu_since",
        old + rows,
        "this checkout and an earlier one, a process each, interleaved; ms: medians, with one thread of processor "
        "time; x_before: ratio of the two; step: forward, backward and AdamW, bfloat16 by autocast; default memory "
        "allocator",
    )


if __name__ == "__main__":
    main()
