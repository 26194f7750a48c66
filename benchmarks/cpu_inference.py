"""What inference on the CPU gains from each step: ``python benchmarks/cpu_inference.py [steps|faults]``.

Writes ``benchmarks/results/MACHINE/cpu_inference_*.json``. A model runs with everything, then as in training, where
torch's operators run one by one, and with each step left out. All take turns in one process, and times are of the
processor. The last step does the work of others where it applies, so that leaving those out shows the noise. Vim has
neither an MLP nor a LayerNorm nor a convolution of maps.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import timm
import torch
from common import run_parts, table, write
from torch import Tensor, nn

import vimzoo  # noqa: F401  registers the models
from vimzoo.layers import linear, plain
from vimzoo.ops import dense, inference, mixers
from vimzoo.ops.conv import op as conv
from vimzoo.ops.norm import op as norm
from vimzoo.ops.runtime import native
from vimzoo.ops.scan import along_paths

CASES = [
    ("vim_tiny_patch16_224", 224),
    ("vmamba_tiny_s1l8", 224),
    ("vim_tiny_patch16_224", 512),
    ("vmamba_tiny_s1l8", 512),
    ("mambair_light_x2", 128),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def never(*args: Any) -> bool:
    """In place of a condition."""
    return False


STEPS: dict[str, list[tuple[Any, str, Any]]] = {
    "operators without torch's dispatcher": [
        (m, "is_inference", never) for m in (dense, conv, norm, along_paths)
    ],
    "LayerNorm and gate in C": [(linear, "_FORWARDS", linear._FORWARDS | {nn.LayerNorm: None})],
    "depthwise convolution and SiLU in C": [(plain, "is_depthwise", never)],
    "1 x 1 convolutions as products, weights packed once": [(plain, "_dense", lambda *args: None)],
    "GELU in the product, MLP by rows": [(inference, "takes_mlp", never), (mixers, "takes", never)],
    "a mixer or MLP in one call, with our own products": [(mixers, "takes", never)],
}


def model_of(name: str, pixels: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A model without gradients and an image for it."""
    sized = {"img_size": pixels} if name.startswith("vim_") else {}
    model = timm.create_model(name, **sized).eval().requires_grad_(False)
    return model.to(dtype), torch.rand(1, 3, pixels, pixels).to(dtype)


def without(step: str, model: nn.Module, x: Tensor) -> Tensor:
    """The model in inference with one step left out."""
    with ExitStack() as stack, torch.inference_mode():
        for module, name, value in STEPS.get(step, []):
            stack.enter_context(mock.patch.object(module, name, value))
        return model(x)


def in_turns(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of the processor of each variant's fastest round: the one that other programs disturbed least."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, call in variants.items():
            begin = time.process_time()
            call()
            if number:
                times[name].append((time.process_time() - begin) * 1e3)
    return {name: min(values) for name, values in times.items()}


def steps(quick: bool) -> None:
    """Models in inference, as in training, and with each step left out, on one thread."""
    torch.set_num_threads(1)
    rows = []
    for name, pixels in CASES[:2] if quick else CASES:
        for dtype_name, dtype in DTYPES.items():
            model, x = model_of(name, pixels, dtype)
            variants: dict[str, Callable[[], Any]] = {
                "all": lambda model=model, x=x: without("", model, x),
                "none": lambda model=model, x=x: model(x),  # gradients are enabled, and nothing needs one
            }
            variants |= {step: lambda step=step, model=model, x=x: without(step, model, x) for step in STEPS}
            found = in_turns(variants, 3 if quick else {224: 24, 512: 9, 128: 7}[pixels])
            row: dict[str, Any] = {"model": name, "pixels": pixels, "dtype": dtype_name, "threads": 1}
            row |= {
                "ms": found["all"],
                "as_in_training_ms": found["none"],
                "ratio": found["all"] / found["none"],
            }
            row["saved_percent"] = {
                step: round(100 * (found[step] - found["all"]) / found["none"], 1) for step in STEPS
            }
            rows.append(row)
            table([row], ["model", "pixels", "dtype", "ms", "as_in_training_ms", "ratio"])
            print(row["saved_percent"], flush=True)
    if not quick:
        write("cpu_inference_steps", rows, str(steps.__doc__))


def faults(quick: bool) -> None:
    """Page faults of a float32 model that is alone in its process, with and without freed memory being kept."""
    rows = []
    for name, pixels in [case for case in CASES if case[1] != 512]:
        for kept in (True, False):
            command = [sys.executable, __file__, "--alone", name, str(pixels), str(int(kept))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"model": name, "pixels": pixels, "kept": kept, **json.loads(done.stdout)})
    table(rows, ["model", "pixels", "kept", "faults", "ms", "faults_as_in_training", "as_in_training_ms"])
    if not quick:
        write("cpu_inference_faults", rows, str(faults.__doc__))


def alone(name: str, pixels: int, kept: bool) -> None:
    """Print one model's page faults and milliseconds of a forward pass."""
    torch.set_num_threads(1)
    if not kept:
        native.keep_freed_memory = lambda: None  # type: ignore[attr-defined]
    model, x = model_of(name, pixels, torch.float32)
    found: dict[str, float] = {}
    for suffix, call in (("", lambda: without("", model, x)), ("as_in_training", lambda: model(x))):
        call()
        counts, times = [], []
        for _ in range(5):
            before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
            call()
            times.append((time.process_time() - begin) * 1e3)
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        found["faults" + (f"_{suffix}" if suffix else "")] = statistics.median(counts)
        found[f"{suffix}_ms" if suffix else "ms"] = statistics.median(times)
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], "steps", "faults"])
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing is written")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(args.alone[0], int(args.alone[1]), args.alone[2] == "1")
    else:
        run_parts({"steps": steps, "faults": faults}, args.parts, args.quick)
