"""Exported files in the runtimes that read them, beside eager PyTorch: size, difference and time.

``python benchmarks/export_runtimes.py write FOLDER`` writes the files. ``... measure FOLDER`` times them interleaved,
in one process for each model, and writes ``benchmarks/results/MACHINE/export_runtimes.json``, in which rows of other
models, batches and threads are kept. ``--earlier FOLDER`` adds ONNX files of an earlier version of this package, which
have to be there under the models' names. Weights are random. Needs the extra ``openvino``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from common import kept, measure_runtimes, table, thread_counts, write
from torch import Tensor, nn

import vimzoo
from vimzoo import exporting
from vimzoo.exporting.formats.onnx import open_onnx
from vimzoo.exporting.openvino import load_inlined, load_with_our_scan

Run = Callable[[Tensor], Tensor]
MODELS = {"vim_tiny_patch16_224": 224, "vmamba_tiny_s1l8": 224, "mambair_light_x2": 64, "vim_digits": 16}
"""Models and the pixels of a side of their images."""
WRITTEN = {
    "onnx": ".onnx",
    "onnxruntime": ".own.onnx",
    "openvino": ".xml",
    "torchscript": ".ts",
    "pt2": ".pt2",
    "aoti": ".aoti.pt2",
}
"""Formats to write, and the suffixes of their files."""


def make(name: str) -> nn.Module:
    """The model with the weights that every one of its files has."""
    torch.manual_seed(0)
    return timm.create_model(name).eval().requires_grad_(False)


def write_files(folder: Path, names: list[str], kinds: list[str]) -> None:
    """Every file of every model, and what writing it took."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        timm.models.save_for_hf(make(name), str(folder / f"{name}.saved"))
        for kind in kinds:
            begin = time.process_time()
            path = folder / f"{name}{WRITTEN[kind]}"
            exporting.export(
                str(folder / f"{name}.saved"), kind, path, **{"int8": True} if kind == "onnx" else {}
            )
            (folder / f"{path.name}.seconds").write_text(str(time.process_time() - begin))
            print(f"{path.name}: {time.process_time() - begin:.0f} s of CPU", flush=True)


def runs(
    name: str, folder: Path, earlier: Path | None, shape: tuple[int, ...]
) -> dict[tuple[str, str], tuple]:
    """Runtime and variant -> the file and how it is run."""
    files = {kind: folder / f"{name}{suffix}" for kind, suffix in WRITTEN.items()}
    library = vimzoo.onnxruntime_extension()
    loads: dict[tuple[str, str], Callable[[Path], Run]] = {
        ("onnxruntime", "onnx"): lambda file: exporting.load(file, "onnx"),
        ("onnxruntime with our scan", "onnx"): lambda file: open_onnx(file, library).run,
        ("onnxruntime with our scan", "onnxruntime"): lambda file: open_onnx(file, library).run,
        ("OpenVINO", "onnx"): load_inlined,
        ("OpenVINO, one size", "onnx"): lambda file: load_inlined(file, (shape,)),
        ("OpenVINO with our scan", "openvino"): load_with_our_scan,
        ("OpenVINO with our scan, one size", "openvino"): lambda file: load_with_our_scan(file, (shape,)),
        ("OpenVINO with our scan, one size, bfloat16", "openvino"): lambda file: load_with_our_scan(
            file, (shape,), "bf16"
        ),
    }
    found = {key: (files[key[1]], load(files[key[1]])) for key, load in loads.items()}
    if (small := folder / f"{name}.int8.onnx").is_file():
        found["onnxruntime with our scan", "onnx, int8"] = (
            small,
            open_onnx(small, library).run,
        )
    for kind, runtime in (("pt2", "PyTorch"), ("torchscript", "TorchScript"), ("aoti", "AOTInductor")):
        if files[kind].is_file():
            found[runtime, kind] = files[kind], exporting.load(files[kind], kind)
    if earlier is not None:
        path = earlier / f"{name}.onnx"
        found["onnxruntime", "onnx, earlier version"] = path, exporting.load(path, "onnx")
    return found


@torch.inference_mode()
def measure_model(
    name: str, folder: Path, earlier: Path | None, batch: int, budget: float
) -> list[dict[str, Any]]:
    """Rows of one model with as many threads as torch has, all forms interleaved."""
    threads = torch.get_num_threads()
    side, model = MODELS[name], make(name)
    shape = (batch, model.pretrained_cfg["input_size"][0], side, side)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    forms = runs(name, folder, earlier, shape)
    want = model(images)
    calls = {("eager PyTorch", "-"): partial(model, images)}
    calls |= {key: partial(run, images) for key, (_, run) in forms.items()}
    named = {" | ".join(key): call for key, call in calls.items()}
    times = measure_runtimes(named, threads, 9, budget)
    eager, rows = times["eager PyTorch | -"]["median"], []
    for key in calls:
        taken = times[" | ".join(key)]["median"]
        one_size = "one size" in key[0]
        opened = "-" if one_size else "batch" if model.pretrained_cfg["fixed_input_size"] else "batch, size"
        row = {
            "model": name,
            "px": side,
            "batch": batch,
            "threads": threads,
            "runtime": key[0],
            "file": key[1],
        }
        row |= {"open": opened, "mb": "-", "difference": "-"}
        if key in forms:
            path, run = forms[key]
            seconds = Path(f"{path}.seconds")
            weights = path.with_suffix(".bin") if path.suffix == ".xml" else None
            row["mb"] = (path.stat().st_size + (weights.stat().st_size if weights else 0)) / 1e6
            row["difference"] = ((run(images).float() - want).abs().max() / want.std()).item()
            if seconds.is_file():
                row["export_cpu_s"] = float(seconds.read_text())
        rows.append(row | {"ms": taken * 1e3, "x_eager": taken / eager, "times": times[" | ".join(key)]})
    return rows


def place_of(row: dict[str, Any]) -> tuple[int, ...]:
    """What a row was measured together with, in the order of the table."""
    return list(MODELS).index(row["model"]), row["batch"], row["threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["write", "measure", "model"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--formats", nargs="+", choices=WRITTEN, default=list(WRITTEN))
    parser.add_argument("--earlier", type=Path)
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=thread_counts())
    parser.add_argument("--budget", type=float, default=20, help="seconds for each model and batch")
    options = parser.parse_args()
    if options.part == "write":
        write_files(options.folder, options.models, options.formats)
        return
    if options.part == "model":  # in a process of its own, so that no model finds another's memory
        (name,), rows = options.models, []
        for threads, batch in itertools.product(options.threads, options.batches):
            torch.set_num_threads(threads)
            rows += measure_model(name, options.folder, options.earlier, batch, options.budget)
        print(json.dumps(rows))
        return
    rows = []
    for name in options.models:
        words = [*sys.argv[2:], "--models", name]
        done = subprocess.run(
            [sys.executable, __file__, "model", *words], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        table(
            found, ["model", "runtime", "file", "px", "batch", "threads", "mb", "difference", "ms", "x_eager"]
        )
        rows += found
    now = {place_of(row) for row in rows}
    rows += [row for row in kept("export_runtimes") if place_of(row) not in now]
    rows.sort(key=place_of)
    about = (
        "exported files with random weights, all forms of a model interleaved, with several threads one after another; "
        "open: what the file leaves open in the runtime; difference: the largest from eager PyTorch, as a share of the "
        "output's standard deviation; x_eager: time divided by eager PyTorch's"
    )
    extra = {package: version(package) for package in ("onnx", "onnxscript", "onnxruntime", "openvino")}
    write("export_runtimes", rows, about, extra=extra)


if __name__ == "__main__":
    main()
