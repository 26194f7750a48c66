"""What bad and extreme input does: ``python benchmarks/reliability.py [--count 5000] [PART ...]``.

Every subject and every case runs in a process of its own, so that a crash is counted, not suffered. Writes
``benchmarks/results/reliability.json``, which docs/reliability.md shows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import timm
import torch
from common import table, write

import vimzoo
from vimzoo.ops import BIDIRECTIONAL, FORWARD, scan_paths
from vimzoo.restoration import PictureError, Restorer, read_picture

LONGEST = 600.0  # seconds for one process


def refused(call: Callable[[], Any], errors: tuple[type[Exception], ...]) -> str:
    """What a refusal says; a defect if ``call`` passes."""
    try:
        call()
    except errors as error:
        return f"refused: {textwrap.shorten(str(error).splitlines()[0], 100, placeholder=' ...')}"
    return "DEFECT: accepted"


def hostile_pickle() -> str:
    """A checkpoint whose unpickling would create a file."""

    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    with tempfile.TemporaryDirectory() as folder:
        marker, path = Path(folder) / "marker", Path(folder) / "weights.pth"
        torch.save({"model": {"weight": torch.zeros(2)}, "args": Attack()}, path)
        said = refused(lambda: vimzoo.models.read_checkpoint(path), (vimzoo.CheckpointError,))
        return "DEFECT: it ran" if marker.exists() else said.replace(folder, "")


def image_bomb() -> str:
    """A PNG of 400 million black pixels in half a megabyte."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bomb.png"
        Image.MAX_IMAGE_PIXELS = None
        Image.new("L", (20_000, 20_000)).save(path)
        return refused(lambda: read_picture(path), (PictureError,))


def restored(height: int, width: int) -> str:
    """A picture of this size through a small restoration model."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    model = timm.create_model("test_mambair")
    result = Restorer(model, tile=256)(pixels)
    wanted = (height * model.scale, width * model.scale, 3)
    return "restored" if result.shape == wanted else f"DEFECT: {result.shape}"


def classified(value: float) -> str:
    """An image with one such pixel through a small classifier: a warning, and an answer that is no number."""
    image = torch.zeros(1, 3, 64, 64)
    image[0, 0, 3, 4] = value
    model = timm.create_model("test_vim").eval()
    with warnings.catch_warnings(record=True) as told, torch.inference_mode():
        warnings.simplefilter("always")
        answer = model(image)
    warned = any("NaN or infinite pixels" in str(warning.message) for warning in told)
    return "a warning, and NaN" if warned and answer.isnan().all() else "DEFECT: an answer without a warning"


def long_sequence() -> str:
    """A million tokens: what the last ones give does not depend on where the sequence is cut, after a long decay."""
    length, tail, channels = 1_000_000, 2_000, 16
    torch.manual_seed(0)
    x, rows = torch.randn(1, length, channels), torch.randn(1, length, 2, 1 + 2 * 4)
    parameters = (-1 - torch.rand(2, channels, 4), torch.randn(2, channels, 1), torch.ones(2, channels))
    whole = scan_paths(x, rows, *parameters, paths=BIDIRECTIONAL, merge=False, backend="cpu")[:, 0, -1000:]
    part = scan_paths(
        x[:, -tail:], rows[:, -tail:], *parameters, paths=BIDIRECTIONAL, merge=False, backend="cpu"
    )
    worst = (whole - part[:, 0, -1000:]).abs().max() / whole.std()
    return f"equal to {worst:.0e}" if worst < 1e-5 else f"DEFECT: differs by {worst:.0e}"


def huge_tensor() -> str:
    """More than 2^31 elements in bfloat16 on the native backend; the end must be the end."""
    channels, tail = 32, 512
    length = 2**31 // channels + 1000
    x = torch.ones(1, length, channels, dtype=torch.bfloat16)
    x[:, -tail:] = torch.randn(tail, channels).bfloat16()
    rows = torch.ones(1, length, 1, 3, dtype=torch.bfloat16)
    parameters = (-torch.ones(1, channels, 1), torch.ones(1, channels, 1), torch.ones(1, channels))
    whole = scan_paths(x, rows, *parameters, paths=(FORWARD,), backend="cpu")[:, -100:].float()
    part = scan_paths(x[:, -tail:], rows[:, -tail:], *parameters, paths=(FORWARD,), backend="cpu")[
        :, -100:
    ].float()
    worst = (whole - part).abs().max() / whole.std()
    return (
        f"{x.numel():,} elements, equal to {worst:.0e}" if worst < 1e-2 else f"DEFECT: differs by {worst:.0e}"
    )


def two_threads() -> str:
    """Two Python threads call one model at once, many times."""
    model = timm.create_model("test_vmamba").eval()
    images = [torch.rand(1, 3, 64, 64) for _ in range(2)]
    with torch.inference_mode():
        wanted = [model(image) for image in images]
    wrong: list[int] = []

    def run(which: int) -> None:
        with torch.inference_mode():
            wrong.extend(which for _ in range(50) if not torch.equal(model(images[which]), wanted[which]))

    threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"DEFECT: {len(wrong)} of 100 differ" if wrong else "100 equal answers"


def fork_after_import() -> str:
    """A process forked after the kernels have run on several threads computes the same, as data loaders do."""
    import multiprocessing

    model, image = timm.create_model("test_vim").eval(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = model(image)

    def child(answers: Any) -> None:
        torch.set_num_threads(1)  # as in every worker of a data loader
        with torch.inference_mode():
            answers.put(bool(torch.allclose(model(image), wanted, atol=1e-6)))

    context: Any = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    equal = answers.get(timeout=60)
    process.join()
    return "equal" if equal else "DEFECT: differs"


CASES: dict[str, Callable[[], str]] = {
    "a checkpoint that runs a command when unpickled": hostile_pickle,
    "a PNG of 400 million pixels": image_bomb,
    "a strip of 60,000 x 8 pixels, restored": lambda: restored(8, 60_000),
    "a picture of 1 x 1 pixel, restored": lambda: restored(1, 1),
    "a pixel that is NaN": lambda: classified(float("nan")),
    "a pixel that is infinite": lambda: classified(float("inf")),
    "a sequence of 1,000,000 tokens": long_sequence,
    "a tensor of more than 2^31 elements": huge_tensor,
    "two threads, one model": two_threads,
    "fork after use": fork_after_import,
}


def in_process(*command: str) -> tuple[str, str]:
    """Standard output and error of a process, or how it ended instead."""
    try:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "", f"DEFECT: no end within {LONGEST:.0f} s"
    if done.returncode < 0:
        return "", f"DEFECT: ended by signal {-done.returncode}"
    return done.stdout.strip(), done.stderr


def fuzzed(subject: str, count: int) -> dict[str, Any]:
    """A row: how ``count`` random tries ended."""
    said, errors = in_process(str(Path(fuzz.__file__)), subject, "--count", str(count))
    outcomes = json.loads(said.splitlines()[-1]) if said else {errors[-160:]: count}
    good = {key: outcomes.pop(key, 0) for key in ("accepted", "refused")}
    return {"what": f"{subject}, random", "tried": count, **good, "other": sum(outcomes.values()),
            "outcome": "; ".join(outcomes) or "as meant"}  # fmt: skip


def guided(subject: str, count: int) -> dict[str, Any]:
    """A row: what atheris found."""
    _, errors = in_process(str(Path(fuzz.__file__)), subject, "--guided", "--count", str(count))
    tried = re.search(r"number_of_executed_units: (\d+)", errors)
    bad = re.search(r"Uncaught Python exception: ===\n(.*)", errors)
    found = bad[1] if bad else "" if tried else errors[-160:]
    runs = int(tried[1]) if tried else 0
    return {"what": f"{subject}, guided by coverage", "tried": runs, "accepted": None, "refused": None,
            "other": int(bool(found)), "outcome": found or "as meant"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="only these; nothing is stored")
    parser.add_argument("--count", type=int, default=5000, help="random tries per subject")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(CASES[options.case](), flush=True)
        return
    rows = []
    if not options.cases:
        rows += [fuzzed(subject, options.count) for subject in fuzz.SUBJECTS]
        if importlib.util.find_spec("atheris"):
            rows += [guided(subject, options.count) for subject in fuzz.READERS]
    for name in options.cases or CASES:
        said, errors = in_process(__file__, "--case", name)
        outcome = said.splitlines()[-1] if said else f"DEFECT: {errors[-160:]}"
        rows.append({"what": name, "tried": 1, "accepted": None, "refused": None,
                     "other": int("DEFECT" in outcome), "outcome": outcome})  # fmt: skip
    table(rows, ["what", "tried", "accepted", "refused", "other", "outcome"])
    if not options.cases:
        write(
            "reliability",
            rows,
            "inputs tried and their outcomes; other: neither accepted nor refused by the intended error",
            timed=False,
        )
    sys.exit(any(row["other"] for row in rows))


if __name__ == "__main__":
    main()
