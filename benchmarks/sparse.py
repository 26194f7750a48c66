"""Feed-forward layers with sparse weights: ``python benchmarks/sparse.py``.

Compares a dense feed-forward layer (768 inputs, 3072 hidden units, exact GELU) with the same layer in 8 bits, and with
layers whose weights are 50 to 95 % zeros: torch's CSR and COO formats with single weights left, its BSR format with
blocks of 32 x 32 left, and a dense layer with as many hidden units fewer. All run interleaved in one process on one
thread. Formats for 2:4 sparsity exist for GPUs only. Writes ``benchmarks/results/MACHINE/sparse.json``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import measure, table, write
from torch import Tensor

from vimzoo.ops import feed_forward, quantize_weight

DIM, HIDDEN, BLOCK = 768, 3072, 32
ROWS = (1, 196)
ZEROS = (50, 75, 90, 95)
Run = Callable[[], Any]


def thinned(weight: Tensor, zeros: int, block: int) -> Tensor:
    """A weight with ``zeros`` per cent of its blocks of ``block x block`` set to zero, those with the least norms."""
    out, into = (side // block for side in weight.shape)
    norms = weight.unflatten(0, (out, block)).unflatten(2, (into, block)).square().sum((1, 3))
    kept = norms.flatten().argsort(descending=True)[: round(norms.numel() * (1 - zeros / 100))]
    mask = torch.zeros(norms.numel()).index_fill_(0, kept, 1.0).view(out, into)
    return weight * mask.repeat_interleave(block, 0).repeat_interleave(block, 1)


def sparse_layer(first: Tensor, second: Tensor, columns: Tensor) -> Tensor:
    """The layer on columns ``(768, rows)``, which torch's sparse products take without copies."""
    return second @ F.gelu(first @ columns)


def formats(x: Tensor, first: Tensor, second: Tensor, zeros: int) -> dict[str, Run]:
    """The layer in each format, after a comparison with the same weights as dense matrices."""
    columns = x.T.contiguous()
    runs: dict[str, Run] = {}
    for name, block, convert in (
        ("csr", 1, Tensor.to_sparse_csr),
        ("coo", 1, lambda w: w.to_sparse_coo().coalesce()),
        ("blocks", BLOCK, lambda w: w.to_sparse_bsr((BLOCK, BLOCK))),
    ):
        dense = [thinned(weight, zeros, block) for weight in (first, second)]
        runs[name] = partial(sparse_layer, *map(convert, dense), columns)
        torch.testing.assert_close(runs[name]().T, feed_forward(x, *dense, act="gelu"), rtol=1e-3, atol=1e-3)
    units = round(HIDDEN * (1 - zeros / 100))
    narrow = first[:units].contiguous(), second[:, :units].contiguous()
    runs["fewer units"] = partial(feed_forward, x, *narrow, act="gelu")
    return runs


@torch.inference_mode()
def main() -> None:
    """Measure every share of zeros, and store the times."""
    warnings.filterwarnings("ignore", "Sparse \\w+ tensor support")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    first = torch.randn(HIDDEN, DIM) * DIM**-0.5
    second = torch.randn(DIM, HIDDEN) * HIDDEN**-0.5
    eight = quantize_weight(first), quantize_weight(second)
    rows = []
    for count in ROWS:
        x = torch.randn(count, DIM)
        fixed: dict[str, Run] = {
            "dense": partial(feed_forward, x, first, second, act="gelu"),
            "int8": partial(feed_forward, x, *eight, act="gelu"),
            "int8 dynamic": partial(feed_forward, x, *eight, act="gelu", activations="int8"),
        }
        for zeros in ZEROS:
            times = measure(fixed | formats(x, first, second, zeros), budget=3.0)
            us = {name: spent["median"] * 1e6 for name, spent in times.items()}
            rows.append({"rows": count, "zeros": zeros, **us})
    table(rows, list(rows[0]))
    about = (
        "microseconds of a feed-forward layer (768 inputs, 3072 hidden units, GELU), float32 activations, one thread, "
        "all interleaved; zeros: per cent of the weights; csr, coo: single weights left; blocks: blocks of 32 x 32 "
        "left, in torch's BSR format; fewer units: dense, with so many per cent of the hidden units removed"
    )
    write("sparse", rows, about)


if __name__ == "__main__":
    main()
