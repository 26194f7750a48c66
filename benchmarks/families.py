"""Every family against its authors' formulas around our native scan: ``python benchmarks/families.py [MODEL ...]``.

The formulas are eager PyTorch: copies of the map for the directions, a product for the step sizes, ``selective_scan``,
a merge; products, convolutions, norms and activations are PyTorch's own. Writes
``benchmarks/results/MACHINE/cpu_families.json``.
"""

from __future__ import annotations

import contextvars
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from common import measure, table, write
from torch import Tensor, nn

from vimzoo.exporting.check import compare, options_of, random_inputs
from vimzoo.models import FAMILIES
from vimzoo.models.inputs import input_shapes
from vimzoo.ops import scan_codes, selective_scan, use_backend
from vimzoo.ops.paths.path import COLUMN, PAD, tokens_from_codes

BOUND = 1e-3
"""Largest difference between both ways, as a share of the output's standard deviation."""


def in_order(x: Tensor, code: int, height: int, width: int) -> Tensor:
    """Tokens ``(B, C, L)`` as a path of closed form visits them."""
    if code >= COLUMN:
        x = x.unflatten(2, (height, width)).transpose(2, 3).flatten(2)
    return x.flip(2) if code & 1 else x


def back(y: Tensor, code: int, height: int, width: int) -> Tensor:
    """The inverse of `in_order`."""
    if code & 1:
        y = y.flip(2)
    return y.unflatten(2, (width, height)).transpose(2, 3).flatten(2) if code >= COLUMN else y


def composed_scan(
    x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor, dt_bias: Tensor, D: Tensor | None, z: Tensor | None,
    codes: Sequence[int], table: Tensor | None, height: int, width: int, merge: bool = True, backend: None = None,
) -> Tensor:  # fmt: skip
    """`scan_codes` as authors compose it, for parameters of every direction."""
    K, channels, N, R = len(codes), x.shape[-1], A.shape[-1], dt_weight.shape[-1]
    each = [(x[:, :, k] if x.dim() == 4 else x).transpose(1, 2) for k in range(K)]
    rows = [x_dbl[:, :, min(k, x_dbl.shape[2] - 1)].transpose(1, 2) for k in range(K)]
    tokens = None if table is None else tokens_from_codes(codes, table, height, width)
    if tokens is None:
        each, rows = (
            [in_order(t, code, height, width) for t, code in zip(part, codes, strict=True)]
            for part in (each, rows)
        )
    else:
        pads = tokens == PAD
        each, rows = (
            [t[:, :, order].masked_fill(pad, 0) for t, order, pad in zip(part, tokens, pads, strict=True)]
            for part in (each, rows)
        )
    low, B, C = F.pad(torch.stack(rows, 1), (0, 0, 0, R + 2 * N - rows[0].shape[1]), value=1.0).split(
        [R, N, N], 2
    )
    delta = torch.einsum("bkrl,kdr->bkdl", low, dt_weight.expand(K, -1, -1))
    flat: list[Any] = [
        None if t is None else t.expand(K, *t.shape[1:]).flatten(0, 1) for t in (A, D, dt_bias)
    ]
    y: Any = selective_scan(
        torch.stack(each, 1).flatten(1, 2), delta.flatten(1, 2), flat[0], B.contiguous(), C.contiguous(), flat[1],
        None, flat[2], True, backend="cpu",
    )  # fmt: skip
    y = y.unflatten(1, (K, channels))
    if not merge:
        return y.transpose(2, 3)
    if tokens is None:
        parts = [back(y[:, k], code, height, width) for k, code in enumerate(codes)]
    else:
        parts = []
        for k, (order, pad) in enumerate(zip(tokens, pads, strict=True)):
            parts.append(torch.zeros_like(x.transpose(1, 2)).index_copy(2, order[~pad], y[:, k][:, :, ~pad]))
    merged = sum(parts[1:], parts[0]).transpose(1, 2)
    return merged if z is None else merged * F.silu(z)


FORMULAS = contextvars.ContextVar("FORMULAS", default=False)


def either_scan(*args: Any, **kwargs: Any) -> Tensor:
    """`composed_scan` within `by_formulas`, else `scan_codes`."""
    return (composed_scan if FORMULAS.get() else scan_codes)(*args, **kwargs)


def replace_scans() -> None:
    """Let all layers call `either_scan`: once, as that takes milliseconds."""
    for name, module in sys.modules.items():
        if (
            name.startswith(("vimzoo.layers", "vimzoo.models"))
            and getattr(module, "scan_codes", 0) is scan_codes
        ):
            module.scan_codes = either_scan  # type: ignore[attr-defined]


def by_formulas(call: Callable[[], Tensor]) -> Tensor:
    """The call, by the authors' formulas."""
    token = FORMULAS.set(True)
    try:
        with use_backend("reference"):
            return call()
    finally:
        FORMULAS.reset(token)


def smallest(family: Any) -> str:
    """The family's smallest model of half a million parameters or more, else its largest."""
    sizes = {name: facts.params for name, facts in family.facts.items()}
    large = [name for name, params in sizes.items() if params >= 500_000]
    return min(large, key=sizes.__getitem__) if large else max(sizes, key=sizes.__getitem__)


def ways(name: str) -> tuple[nn.Module, dict[str, Callable[[], Tensor]]]:
    """A model, and its call on random inputs of its own size in both ways, which agree."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for setting, value in options_of(model).settings.items():  # no random routes
        setattr(model, setting, value)
    shapes = tuple((1, *shape) for shape in input_shapes(model).values())
    found = compare(lambda *inputs: by_formulas(partial(model, *inputs)), model, [shapes])
    assert found.difference < BOUND, f"{name}: the two ways differ by {found.difference:.1e}"
    ours = partial(model, *random_inputs(shapes, 0))
    return model, {"ours": ours, "formulas": partial(by_formulas, ours)}


def main() -> None:
    """Measure the models named on the command line, by default one of each family; only the latter are stored."""
    torch.set_num_threads(1)
    replace_scans()
    rows = []
    for name in sys.argv[1:] or map(smallest, FAMILIES.values()):
        with torch.inference_mode():
            model, calls = ways(name)
            times = measure(calls, 9, 6, time.process_time)
        shapes = ", ".join("x".join(map(str, shape)) for shape in input_shapes(model).values())
        row = {"model": name, "input": shapes, **{f"{way}_ms": t["median"] * 1e3 for way, t in times.items()}}
        rows.append(row | {"x_formulas": row["formulas_ms"] / row["ours_ms"], "times": times})
        table(rows[-1:], ["model", "input", "ours_ms", "formulas_ms", "x_formulas"])
    if not sys.argv[1:]:
        about = (
            "one input of each model's own size, float32, whole forward pass with one thread; formulas: as the authors "
            "compose them in eager PyTorch around the native selective_scan; x_formulas: their time divided by ours"
        )
        write("cpu_families", rows, about)


if __name__ == "__main__":
    main()
