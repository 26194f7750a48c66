"""Vim-T and VMamba-T beside DeiT-T and Swin-T in the runtimes that people deploy with, on the CPU.

``python benchmarks/cpu_runtimes.py`` times all of them in one process, with one thread interleaved, and writes
``benchmarks/results/MACHINE/cpu_runtimes.json``, in which rows of other sizes, batches and threads stay;
``docs/figures/draw_speed.py`` draws it. ``pip install
".[bench]"`` brings OpenVINO and onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import openvino
import timm
import torch
from common import CORES, kept, machine, measure_runtimes, table, thread_counts, write
from cpu_models import peak_growth, resident

from vimzoo import exporting
from vimzoo.exporting.openvino import load_with_our_scan

Call = Callable[[], Any]
PAIRS = {
    "vim_tiny_patch16_224": "deit_tiny_patch16_224",
    "vmamba_tiny_s1l8": "swin_tiny_patch4_window7_224",
}
"""Each of our models and the transformer of its size that it is compared with."""
SIZES, BATCHES = (224, 512, 1024), (1, 8)
DTYPES = {"float32": "f32", "bfloat16": "bf16"}
"""torch's names of the types and OpenVINO's."""
WITH_OUR_SCAN = "OpenVINO with our scan"


class Peer:
    """A timm model in float32 at one size, as PyTorch runs it and as an ONNX file in ``folder``."""

    def __init__(self, name: str, px: int, batch: int, folder: Path) -> None:
        self.model, self.shape = make_model(name, px), (batch, 3, px, px)
        self.file = folder / f"{name}-{px}-{batch}.onnx"
        if not self.file.is_file():
            torch.onnx.export(self.model, (torch.zeros(self.shape),), self.file, dynamo=True, verbose=False)


def make_model(name: str, px: int, dtype: str = "float32") -> torch.nn.Module:
    """A timm model with random weights for images of ``px`` pixels a side."""
    torch.manual_seed(0)
    sized = {} if name.startswith("vmamba") else {"img_size": px}
    return timm.create_model(name, **sized).eval().requires_grad_(False).to(getattr(torch, dtype))


def in_pytorch(model: torch.nn.Module, shape: tuple[int, ...]) -> Call:
    """A forward pass in eager mode, with as many threads as torch has."""
    x = torch.rand(shape, dtype=next(model.parameters()).dtype)
    return partial(model, x)


def in_onnxruntime(file: Path, shape: tuple[int, ...], threads: int) -> Call:
    """A run of an ONNX file in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: torch.rand(shape).numpy()})


def in_openvino(file: Path, shape: tuple[int, ...], threads: int, dtype: str) -> Call:
    """A run of an ONNX file in OpenVINO."""
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": DTYPES[dtype],
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(file, "CPU", hints).create_infer_request()
    return partial(request.infer, [torch.rand(shape).numpy()])


def in_openvino_with_our_scan(name: str, px: int, shape: tuple[int, ...], folder: Path, dtype: str) -> Call:
    """A run of our model as ``vimzoo.export`` writes it for OpenVINO, compiled for one size."""
    path = folder / f"{name}-{px}.xml"
    if not path.is_file():
        source = exporting.Source(make_model(name, px), torch.rand(2, 3, px, px), False, {})
        exporting.FORMATS["openvino"].save(source, path)
    return partial(load_with_our_scan(path, (shape,), DTYPES[dtype]), torch.rand(shape))


def peer_calls(peer: Peer, dtype: str, threads: int) -> dict[str, Call]:
    """How a peer is run, by runtime; onnxruntime has no bfloat16 on the CPU."""
    own = peer.model.to(getattr(torch, dtype))
    calls = {
        "PyTorch": in_pytorch(own, peer.shape),
        "OpenVINO": in_openvino(peer.file, peer.shape, threads, dtype),
    }
    if dtype == "float32":
        calls["onnxruntime"] = in_onnxruntime(peer.file, peer.shape, threads)
    return calls


def rows_of(
    ours: str, px: int, batch: int, dtype: str, threads: int, folder: Path, quick: bool
) -> list[dict]:
    """One of our models and its peer in every runtime, timed interleaved."""
    torch.set_num_threads(threads)
    name = PAIRS[ours]
    shape = (batch, 3, px, px)
    calls = {
        (ours, "PyTorch"): in_pytorch(make_model(ours, px, dtype), shape),
        (ours, WITH_OUR_SCAN): in_openvino_with_our_scan(ours, px, shape, folder, dtype),
    }
    for runtime, call in peer_calls(Peer(name, px, batch, folder), dtype, threads).items():
        calls[name, runtime] = call
    with torch.inference_mode():
        named = {" ".join(key): call for key, call in calls.items()}
        times = measure_runtimes(named, threads, 5 if quick else 15, 8)
    best = min(times[" ".join(key)]["median"] for key in calls if key[0] == name)
    fixed = {"pair": f"{ours}, {name}", "dtype": dtype, "px": px, "batch": batch, "threads": threads}
    rows = []
    for model, runtime in calls:
        taken = times[f"{model} {runtime}"]
        row = {"model": model, "runtime": runtime, **fixed}
        row |= {"ms": taken["median"] * 1e3, "x_best_peer": taken["median"] / best, "times": taken}
        rows.append(row)
    return rows


def memory(model: str, runtime: str, dtype: str, px: int, file: Path) -> float:
    """MB that this fresh process needs to hold a model and run one image: the peak of a run less what came before."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        in_pytorch(make_model("test_vim", 64, dtype), (1, 3, 64, 64))()  # whatever torch sets up at first use
        before = resident()
        if runtime == "PyTorch":
            run = in_pytorch(make_model(model, px, dtype), (1, 3, px, px))
        elif runtime == WITH_OUR_SCAN:
            run = in_openvino_with_our_scan(model, px, (1, 3, px, px), file.parent, dtype)
        elif runtime == "onnxruntime":
            run = in_onnxruntime(file, (1, 3, px, px), 1)
        else:
            run = in_openvino(file, (1, 3, px, px), 1, dtype)
        return max(resident() - before, 0.0) + peak_growth(run)


def measured_memory(row: dict[str, Any], folder: Path) -> float:
    """`memory` of a row's model and runtime, in a process of its own."""
    file = folder / f"{row['model']}-{row['px']}-1.onnx"
    words = [row["model"], row["runtime"], row["dtype"], str(row["px"]), str(file)]
    command = [sys.executable, __file__, "--memory", *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def place_of(row: dict[str, Any]) -> tuple[int, ...]:
    """What a row was measured together with, in the order of the file."""
    return row["px"], row["batch"], row["threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, one image, one thread")
    parser.add_argument("--px", nargs="+", type=int, default=SIZES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--threads", nargs="+", type=int, default=thread_counts())
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        model, runtime, dtype, px, file = options.memory
        print(memory(model, runtime, dtype, int(px), Path(file)))
        return
    print(json.dumps(machine(), indent=1))
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for px in options.px:
            for batch in [1] if options.quick else options.batches:
                if px > 512 and batch > 1:
                    continue  # several minutes a round; one image shows the same
                for threads in [1] if options.quick else options.threads:
                    found = [
                        row
                        for ours in PAIRS
                        for dtype in DTYPES
                        for row in rows_of(ours, px, batch, dtype, threads, folder, options.quick)
                    ]
                    if batch == threads == 1:
                        for row in found:
                            row["peak_mb"] = measured_memory(row, folder)
                    table(found, ["model", "runtime", "dtype", "px", "batch", "threads", "ms", "x_best_peer"])
                    rows += found
    torch.set_num_threads(CORES)
    now = {place_of(row) for row in rows}
    rows = sorted(rows + [row for row in kept("cpu_runtimes") if place_of(row) not in now], key=place_of)
    about = (
        "whole forward pass with random weights, with one thread interleaved, with several one after another; "
        "PyTorch: eager mode; OpenVINO and onnxruntime: timm's model as an ONNX file of fixed size; OpenVINO with our "
        "scan: our model as vimzoo.export writes it, compiled for that size; bfloat16: the model in bfloat16 in "
        "PyTorch, OpenVINO's precision hint; x best peer: time divided by that of the peer in its fastest runtime; "
        "peak: resident memory that the model and one forward pass add to a fresh process"
    )
    extra = {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    write("cpu_runtimes", rows, about, extra=extra)


if __name__ == "__main__":
    main()
