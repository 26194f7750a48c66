"""What the model of the digits is as a file: accuracy, size and speed, with float32 and with 8-bit weights.

``python benchmarks/export.py`` trains as ``python train.py`` does, exports the run as ``python -m vimzoo.export RUN
--int8`` does, has PyTorch, onnxruntime and OpenVINO name the same test images, and writes
``benchmarks/results/MACHINE/export_digits.json``. OpenVINO's 8-bit file is made by NNCF from the validation images
(``pip install openvino nncf``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import CORES, measure, table, write
from torch import Tensor

import vimzoo
from vimzoo.data import eval_loader
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.finished import best_model, run_settings
from vimzoo.exporting import export, load
from vimzoo.exporting.formats.onnx import open_onnx
from vimzoo.exporting.openvino import load_with_our_scan

Run = Callable[[Tensor], Tensor]
BATCH = 64
CALIBRATION = 300
"""Validation images, at most, from which NNCF takes ranges."""


def accuracy(runs: dict[str, Run], images: Tensor, labels: Tensor) -> dict[str, dict[str, Any]]:
    """How each of ``runs`` does, and how far it is from the first."""
    logits = {name: torch.cat([run(part) for part in images.split(BATCH)]) for name, run in runs.items()}
    first = next(iter(logits.values()))
    return {
        name: {
            "images": len(labels),
            "top1": 100 * (found.argmax(1) == labels).double().mean().item(),
            "other_answers": int((found.argmax(1) != first.argmax(1)).sum()),
            "difference": ((found - first).abs().max() / first.std()).item(),
        }
        for name, found in logits.items()
    }


Form = tuple[Path, Callable[[Path], Run]]
"""A file with weights, and how it is opened."""


def with_our_scan(path: Path) -> Run:
    """In onnxruntime."""
    return open_onnx(path, vimzoo.onnxruntime_extension()).run


def quantised(path: Path, to: Path, images: Tensor) -> Path:
    """OpenVINO's file with 8-bit weights and inputs of products, whose ranges NNCF takes from some images.

    By default NNCF also rounds what norms and SiLU compute inside, and its smoothing widens ranges here. Outputs of
    the scan have outliers, for which no fixed range is good; their products stay as they are.
    """
    import nncf
    import openvino

    core = openvino.Core()
    core.add_extension(vimzoo.openvino_extension())
    batches = nncf.Dataset(images.split(1), lambda image: image.numpy())
    model = core.read_model(path)
    of_scans = [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() == "MatMul" and node.input_value(0).get_node().get_type_name() == "ScanPaths"
    ]
    smoothing = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    model = nncf.quantize(
        model,
        batches,
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=of_scans),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
    )
    openvino.save_model(model, to, compress_to_fp16=False)
    return to


def rows_of(threads: int, forms: dict[str, Form], images: Tensor, labels: Tensor) -> list[dict]:
    """One row per form."""
    torch.set_num_threads(threads)  # before runtimes start as many
    runs = {form: opened(path) for form, (path, opened) in forms.items()}
    found = accuracy(runs, images, labels)
    rows = {
        form: {"form": form, "threads": threads, **found[form], "kb": size_of(path) / 1e3}
        for form, (path, _) in forms.items()
    }
    for size in (1, BATCH):
        times = measure({form: partial(run, images[:size]) for form, run in runs.items()})
        for form, row in rows.items():
            row[f"images_per_s_batch_{size}"] = size / times[form]["median"]
    return list(rows.values())


def size_of(path: Path) -> int:
    """Of a file and of OpenVINO's weights beside it."""
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if path.suffix == ".xml" else 0)


@torch.inference_mode()
def compare(run: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows, on images that neither training nor the choice of weights has seen."""
    cfg = run_settings(run)
    data = build_data(cfg)
    images, labels = (torch.cat(parts) for parts in zip(*eval_loader(data.test, BATCH, 0), strict=True))
    model = best_model(run, cfg, data)
    whole, small = (written.path for written in export(str(run), "onnx", folder / "digits.onnx", int8=True))
    (ours,) = export(str(run), "onnx", folder / "digits.quantized.onnx", quantize="int8-dynamic")
    seen = torch.cat([part for part, _ in eval_loader(data.val, BATCH, 0)])[:CALIBRATION]
    eight = quantised(whole, folder / "digits.nncf.xml", seen)
    forms: dict[str, Form] = {
        "PyTorch": (run / "model" / "model.safetensors", lambda path: model),
        "onnxruntime": (whole, partial(load, kind="onnx")),
        "onnxruntime, int8": (small, partial(load, kind="onnx")),
        "onnxruntime with our scan": (whole, with_our_scan),
        "onnxruntime with our scan, int8": (small, with_our_scan),
        "onnxruntime with our scan, int8-dynamic": (ours.path, with_our_scan),
        "OpenVINO with our scan": (whole, load_with_our_scan),
        "OpenVINO with our scan, bfloat16": (whole, partial(load_with_our_scan, precision="bf16")),
        "OpenVINO with our scan, int8-dynamic": (ours.path, load_with_our_scan),
        "OpenVINO with our scan, int8 by NNCF": (eight, load_with_our_scan),
    }
    # One thread: those of a runtime that wait for work would disturb the others
    rows = rows_of(1, forms, images, labels)
    torch.set_num_threads(CORES)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, export, compare, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a finished run on the digits, in place of a new one")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as temporary:
        run = options.run or Path(temporary) / "run"
        if options.run is None:
            launch(composed_settings([]), run)
        rows = compare(run, Path(temporary))
    table(rows, list(rows[0]))
    about = (
        "the small Vim of `python train.py` on the digits' test images; top1: per cent; other_answers: images that "
        "PyTorch names otherwise; difference: largest of a logit from PyTorch's, as a share of their standard "
        "deviation; int8: by `--int8`; int8-dynamic: by `--quantize`; kb: of the file with the weights; speed one "
        "image at a time and in batches, all forms interleaved"
    )
    extra = {package: version(package) for package in ("onnxruntime", "openvino", "nncf")}
    write("export_digits", rows, about, extra=extra)


if __name__ == "__main__":
    main()
