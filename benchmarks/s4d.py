"""Both forms of S4D over the length of the sequence, on the CPU: ``python benchmarks/s4d.py``.

Writes ``benchmarks/results/MACHINE/cpu_s4d.json``.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from common import CORES, measure, table, write
from torch import Tensor

from vimzoo.layers import S4D

DIM, BATCH = 192, 8
FORMS = ("convolution", "recurrence")
LAYERS = {"real": 16, "lin": 64}
"""Initialisation and number of states N."""
LONGEST = {"real": 4096, "lin": 196}
"""Tokens for which the recurrence is still measured: with complex A it is a loop in PyTorch."""


def step(layer: S4D, x: Tensor) -> None:
    """Forward and backward pass."""
    layer(x).sum().backward()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for init, states in LAYERS.items():
        for length in (1, 4, 16, 64, 196, 1024, 4096):
            forms = {form: S4D(DIM, states, init, form=form) for form in FORMS}
            if length > LONGEST[init]:
                del forms["recurrence"]
            x = torch.randn(BATCH, length, DIM)
            with torch.inference_mode():
                forward = measure({form: partial(layer, x) for form, layer in forms.items()}, 5, 5)
            both = measure({form: partial(step, layer, x) for form, layer in forms.items()}, 5, 5)
            row: dict[str, Any] = {"init": init, "states": states, "tokens": length, "batch": BATCH}
            for form in FORMS:
                row[f"{form}_ms"] = forward[form]["median"] * 1e3 if form in forward else None
                row[f"{form}_backward_ms"] = both[form]["median"] * 1e3 if form in both else None
            rows.append(row)
    torch.set_num_threads(CORES)
    table(rows, list(rows[0]))
    about = f"S4D of {DIM} channels, float32, 1 thread; backward: forward and backward pass"
    write("cpu_s4d", rows, about)


if __name__ == "__main__":
    main()
