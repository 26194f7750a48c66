"""Time of one image through every registered model on the CPU: ``python benchmarks/each_model.py [MODEL ...]``.

Writes ``benchmarks/results/MACHINE/cpu_each_model.json``, which MODEL_CARDS.md shows.
"""

from __future__ import annotations

import sys

import timm
import torch
from common import measure, table, write

from vimzoo.models.registry import known_facts


def main() -> None:
    """Measure the models named on the command line, by default all; only a run of all is stored."""
    cores, rows = torch.get_num_threads(), []
    known = known_facts("classification")
    names = sys.argv[1:] or list(known)
    for name in names:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        image = torch.randn(1, *known[name].input_size)
        for threads in dict.fromkeys((1, min(2, cores))):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                time = measure({name: lambda m=model, x=image: m(x)}, rounds=3, budget=0)[name]
            size = known[name].input_size[-1]
            row = {"model": name, "px": size, "dtype": "float32", "batch": 1, "threads": threads}
            rows.append(row | {"ms": time["median"] * 1e3, "times": time})
        torch.set_num_threads(cores)
    table(rows, ["model", "px", "threads", "ms"])
    if len(names) == len(known):
        write(
            "cpu_each_model",
            rows,
            "one image through each model at its own size, float32, whole forward pass",
        )


if __name__ == "__main__":
    main()
