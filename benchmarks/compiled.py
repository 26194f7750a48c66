"""Models compiled by torch beside eager inference: ``python benchmarks/compiled.py FOLDER [--prepare] [MODEL...]``.

One thread, float32. ``--prepare`` only writes the AOTInductor files to FOLDER and fills the compiler's cache, so that
a run after it takes a minute. Writes ``benchmarks/results/MACHINE/cpu_compiled.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import timm
import torch
from common import kept, measure, table, write

from vimzoo import exporting

MODELS = {"vim_tiny_patch16_224": 224, "vmamba_tiny_s1l8": 224, "mambair_light_x2": 64}
"""Models and the pixels of a side of their images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the AOTInductor files")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"by default {', '.join(MODELS)}")
    parser.add_argument("--prepare", action="store_true", help="measure nothing")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.models or MODELS:
        torch.manual_seed(0)
        model, image = timm.create_model(name).eval(), torch.rand(1, 3, MODELS[name], MODELS[name])
        path = options.folder / f"{name}.aoti.pt2"
        if options.prepare:
            timm.models.save_for_hf(model, str(options.folder / name))
            exporting.export(str(options.folder / name), "aoti", path)
        file = torch._inductor.aoti_load_package(str(path))
        compiled = torch.compile(model)
        with torch.inference_mode():
            calls = {
                "eager": lambda: model(image),  # noqa: B023  called at once
                "torch.compile": lambda: compiled(image),  # noqa: B023
                "AOTInductor file": lambda: file(image),  # noqa: B023
            }
            if options.prepare:
                compiled(image)
                continue
            times = measure(calls, rounds=15, budget=12.0, clock=time.process_time)
        for form, taken in times.items():
            row = {"model": name, "px": MODELS[name], "form": form, "ms": taken["median"] * 1e3}
            x_eager = taken["median"] / times["eager"]["median"]
            rows.append({**row, "x_eager": x_eager, "times": taken})
    if options.prepare:
        return
    table(rows, ["model", "px", "form", "ms", "x_eager"])
    measured = {row["model"] for row in rows}
    rows = [row for row in kept("cpu_compiled") if row["model"] not in measured] + rows
    write(
        "cpu_compiled",
        rows,
        "one image, float32, one thread, all forms interleaved; ms: processor time; x_eager: divided by that of "
        "eager inference",
    )


if __name__ == "__main__":
    main()
