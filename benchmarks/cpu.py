"""Speed of the operators on the CPU, side by side in one run: ``python benchmarks/cpu.py [PART ...]``.

Writes ``benchmarks/results/MACHINE/cpu_*.json`` and prints the same as tables. Times are wall-clock medians over rounds
in which the variants take turns. Whole models: ``cpu_models.py``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import measure, run_parts, table, thread_counts, write
from compositions import layer_inputs, unfused
from torch import Tensor

import vimzoo
from vimzoo.ops import BIDIRECTIONAL, CROSS, scan_paths, selective_scan
from vimzoo.ops.runtime import native

# name: batch, channels, length, states, groups, gate
SCANS = {
    "Vim-T layer": (8, 384, 197, 16, 1, True),
    "Vim-T layer, one image": (1, 384, 197, 16, 1, True),
    "VMamba-T stage 1": (4, 384, 3136, 1, 4, False),
    "MambaIR light": (1, 288, 4096, 10, 4, False),
}


def upstream_formula(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
                     bias: Tensor) -> Tensor:  # fmt: skip
    """The way mamba_ssm's reference computes it: both exponentials and inputs for all steps at once, then a loop."""
    delta = F.softplus(delta + bias[:, None])
    B, C = (m.repeat_interleave(u.shape[1] // m.shape[1], 1) for m in (B, C))
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    drive = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    state, outputs = A.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bdn->bd", state, C[..., t]))
    y = torch.stack(outputs, -1) + u * D[:, None]
    return y if z is None else y * F.silu(z)


def scan_inputs(batch: int, channels: int, length: int, states: int, groups: int, gate: bool) -> list[Any]:
    torch.manual_seed(0)
    u, delta, z = (torch.randn(batch, channels, length) for _ in range(3))
    B, C = (torch.randn(batch, groups, states, length) for _ in range(2))
    A = -torch.arange(1.0, states + 1).expand(channels, states).contiguous()
    return [u, 0.5 * delta, A, B, C, torch.ones(channels), z if gate else None, torch.full((channels,), -4.0)]


def with_backward(function: Callable[..., Tensor], inputs: list[Any]) -> Callable[[], Any]:
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    given = [leaf for leaf in leaves if leaf is not None]
    grad = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*leaves), given, grad)


def bench_scan(quick: bool) -> None:
    """`selective_scan` against mamba_ssm's reference formula and the leanest loop in eager PyTorch."""
    rows = []
    functions: dict[str, Callable[..., Tensor]] = {
        "formula": upstream_formula,
        "eager": lambda *a: selective_scan(*a, delta_softplus=True, backend="reference"),
        "native": lambda *a: selective_scan(*a, delta_softplus=True, backend="cpu"),
    }
    for name, shape in SCANS.items():
        inputs = scan_inputs(*shape)
        elements = shape[0] * shape[1] * shape[2]
        for threads in thread_counts():
            torch.set_num_threads(threads)
            with torch.inference_mode():
                times = measure({k: partial(f, *inputs) for k, f in functions.items()}, rounds=5)
            rows.append(scan_row(name, "forward", threads, elements, times))
            # the formula's gradient takes a full-size tensor for every step: quadratic in L, so short sequences only
            if shape[2] < 1000 and not (quick and threads > 1):
                calls = {k: with_backward(f, inputs) for k, f in functions.items()}
                rows.append(scan_row(name, "forward+backward", threads, elements, measure(calls, 3, 0)))
    columns = ["shape", "pass", "threads", "formula_ns", "eager_ns", "native_ns", "x_formula", "x_eager"]
    table(rows, columns)
    write("cpu_selective_scan", rows, "float32 selective_scan, ns per (batch, channel, step); x: speed-up")


def scan_row(name: str, what: str, threads: int, elements: int, times: dict[str, dict]) -> dict[str, Any]:
    row: dict[str, Any] = {"shape": name, "pass": what, "threads": threads}
    row |= {f"{variant}_ns": time["median"] / elements * 1e9 for variant, time in times.items()}
    row |= {"x_formula": row["formula_ns"] / row["native_ns"], "x_eager": row["eager_ns"] / row["native_ns"]}
    return row | {"times": times}


# name: batch, channels, states, rank, grid (Vim's sequences are one row)
PATHS = {
    "Vim-T 224 px, B 8": (8, 384, 16, 12, (1, 197)),
    "Vim-T 224 px, B 1": (1, 384, 16, 12, (1, 197)),
    "Vim-T 1024 px, B 1": (1, 384, 16, 12, (1, 4097)),
    "VMamba-T stage 1, B 4, 56x56": (4, 96, 1, 6, (56, 56)),
    "VMamba-T stage 1, 128x128": (1, 96, 1, 6, (128, 128)),
    "MambaIR light, 64x64": (1, 72, 10, 4, (64, 64)),
    "MambaIR, 64x64": (1, 360, 16, 12, (64, 64)),
}


def backward_of_paths(inputs: tuple, paths: Any, grid: tuple[int, int]) -> Callable[[], Any]:
    """The fused op's backward pass alone, all gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
        out = scan_paths(*leaves, paths=paths, grid=grid)  # type: ignore[arg-type]
        given, grad = [leaf for leaf in leaves if leaf is not None], torch.ones_like(out)

    def call() -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(out, given, grad, retain_graph=True)

    return call


def bench_paths(quick: bool) -> None:
    """The fused op against the same work composed around our native `selective_scan`."""
    rows = []
    for name, (batch, channels, states, rank, grid) in PATHS.items():
        inputs = layer_inputs(batch, channels, states, rank, grid)
        length, K = grid[0] * grid[1], 2 if grid[0] == 1 else 4
        paths = BIDIRECTIONAL if K == 2 else CROSS
        calls = {
            "fused": lambda i=inputs, p=paths, g=grid: scan_paths(*i, paths=p, grid=g),
            "unfused": lambda i=inputs, g=grid: unfused(i, g),
        }
        with torch.inference_mode():
            difference = (calls["fused"]() - calls["unfused"]()).abs().max().item() / calls[
                "unfused"
            ]().std().item()
            assert difference < 3e-5, f"{name}: fused and unfused differ by {difference:.1e} of the spread"
            for threads in thread_counts():
                torch.set_num_threads(threads)
                times = measure(calls, rounds=5 if quick else 15)
                times |= measure({"backward": backward_of_paths(inputs, paths, grid)}, rounds=5)
                per = batch * length * channels * K
                row = {"shape": name, "threads": threads}
                row |= {f"{k}_ns": t["median"] / per * 1e9 for k, t in times.items()}
                ratios = {
                    "x_unfused": row["unfused_ns"] / row["fused_ns"],
                    "backward_over_forward": row["backward_ns"] / row["fused_ns"],
                }
                rows.append(row | ratios | {"times": times})
    columns = [
        "shape",
        "threads",
        "fused_ns",
        "unfused_ns",
        "x_unfused",
        "backward_ns",
        "backward_over_forward",
    ]
    table(rows, columns)
    write(
        "cpu_scan_paths",
        rows,
        "float32 forward, ns per (batch, token, channel, direction); fused: scan_paths, unfused: separate "
        "operations on the native selective_scan",
    )


def bench_states(quick: bool) -> None:
    """States as the output, and given and returned states, against the same scan without them."""
    rows = []
    torch.set_num_threads(1)
    for name, (batch, channels, states, rank, grid) in PATHS.items():
        x, rows_of_x, A, *step, D, _ = layer_inputs(batch, channels, states, rank, grid)
        paths: Any = BIDIRECTIONAL if grid[0] == 1 else CROSS
        initial = torch.zeros(batch, len(paths), channels, states)
        scan = partial(scan_paths, x, rows_of_x, A, *step, D, paths=paths, grid=grid)
        calls = {"scan": scan, "carried": partial(scan, initial_state=initial, return_final_state=True)}
        if states == 1:
            without_C = rows_of_x.permute(2, 0, 1, 3)[..., :-states].contiguous().permute(1, 2, 0, 3)
            calls["states"] = partial(scan_paths, x, without_C, A, *step, paths=paths, grid=grid)
        with torch.inference_mode():
            times = measure(calls, rounds=15 if quick else 40, clock=time.process_time)
        per = batch * grid[0] * grid[1] * channels * len(paths)
        row = {"shape": name, "threads": 1, **{f"{k}_ns": t["median"] / per * 1e9 for k, t in times.items()}}
        ratios = {f"x_{k}": row[f"{k}_ns"] / row["scan_ns"] for k in ("carried", "states") if k in times}
        rows.append({"states_ns": None, "x_states": None, **row, **ratios, "times": times})
    table(rows, ["shape", "scan_ns", "carried_ns", "x_carried", "states_ns", "x_states"])
    write(
        "cpu_scan_states",
        rows,
        "float32 scan_paths forward, ns of processor time per (batch, token, channel, direction); carried: from given "
        "states, and those after the last step returned; states: rows without C, whose output is the states",
    )


def cpu_seconds(call: Callable[[], Any], rounds: int) -> float:
    """The median of the processor time of one call, which other processes do not lengthen."""
    times = []
    for _ in range(rounds + 1):
        calls, begin = 0, time.process_time()
        while calls == 0 or time.process_time() - begin < 0.02:
            call()
            calls += 1
        times.append((time.process_time() - begin) / calls)
    return statistics.median(times[1:])


def bench_reference(quick: bool) -> None:
    """The fused op on the native kernels against the plain PyTorch that runs where there are none, one thread."""
    torch.set_num_threads(1)
    rows = []
    for name in ("Vim-T 224 px, B 8", "Vim-T 224 px, B 1", "VMamba-T stage 1, B 4, 56x56"):
        batch, channels, states, rank, grid = PATHS[name]
        inputs = list(layer_inputs(batch, channels, states, rank, grid))
        paths = BIDIRECTIONAL if grid[0] == 1 else CROSS
        for passes in ("forward", "forward+backward"):
            row: dict[str, Any] = {"shape": name, "pass": passes}
            for variant, backend in (("native", "cpu"), ("reference", "reference")):
                call = partial(scan_paths, paths=paths, grid=grid, backend=backend)
                if passes == "forward":
                    with torch.inference_mode():
                        seconds = cpu_seconds(partial(call, *inputs), 3 if quick else 7)
                else:
                    seconds = cpu_seconds(with_backward(call, inputs), 3 if quick else 7)
                row[f"{variant}_ms"] = seconds * 1e3
            rows.append(row | {"x_reference": row["reference_ms"] / row["native_ms"]})
    table(rows, ["shape", "pass", "native_ms", "reference_ms", "x_reference"])
    write(
        "cpu_reference",
        rows,
        "float32 scan_paths, processor time in ms on one thread; x: reference over native",
        timed=False,
    )


def bench_linear(quick: bool) -> None:
    """Vim-T's matrix products: `vimzoo.ops.linear` (oneDNN) against torch's default."""
    rows = []
    for tokens in (197, 1025):
        for inputs, outputs in ((192, 768), (384, 44), (384, 192)):
            x, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs)
            for threads in thread_counts():
                torch.set_num_threads(threads)
                with torch.inference_mode():
                    ours = partial(vimzoo.ops.linear, x, weight)
                    times = measure({"default": partial(F.linear, x, weight), "ours": ours}, rounds=15)
                flops = 2e-9 * tokens * inputs * outputs
                row = {"shape": f"{tokens}x{inputs}x{outputs}", "threads": threads}
                row |= {f"{k}_gflops": flops / t["median"] for k, t in times.items()}
                rows.append(row | {"ratio": row["ours_gflops"] / row["default_gflops"], "times": times})
    table(rows, ["shape", "threads", "default_gflops", "ours_gflops", "ratio"])
    write("cpu_linear", rows, "float32 x weight^T in Gflop/s: F.linear and vimzoo.ops.linear")


def time_one_instruction_set(name: str, passes: str) -> float:
    """Nanoseconds per element of the fused Vim-T layer in a fresh process on instruction set ``name``."""
    command = [sys.executable, __file__, "--isa", passes]
    environment = {**os.environ, "VIMZOO_ISA": name}
    return float(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[
            -1
        ]
    )


def report_instruction_set(passes: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    batch, channels, states, rank, (_, length) = PATHS["Vim-T 224 px, B 8"]
    leaves = [torch.randn(2, batch, length, channels).permute(1, 2, 0, 3),
              torch.randn(2, batch, length, rank + 2 * states).permute(1, 2, 0, 3), -torch.rand(2, channels, states),
              0.3 * torch.randn(2, channels, rank), torch.full((2, channels), -4.0), torch.ones(2, channels),
              torch.randn(batch, length, channels)]  # fmt: skip

    def call() -> Any:
        if passes == "forward":
            with torch.inference_mode():
                return scan_paths(*leaves, paths=BIDIRECTIONAL, backend="cpu")
        inputs = [t.detach().requires_grad_() for t in leaves]
        out = scan_paths(*inputs, paths=BIDIRECTIONAL, backend="cpu")
        return torch.autograd.grad(out, inputs, torch.ones_like(out))

    times = measure({"scan": call}, rounds=15)
    print(times["scan"]["median"] / (2 * batch * length * channels) * 1e9)


def bench_isa(quick: bool) -> None:
    """The fused Vim-T layer (B 8, 224 px, one thread) on each instruction set that this processor has."""
    best = native.LEVELS.index(native.load()[1])
    rows = []
    for passes in ("forward", "forward+backward"):
        for level in native.LEVELS[: best + 1]:
            rows.append(
                {"instruction_set": level, "pass": passes, "ns": time_one_instruction_set(level, passes)}
            )
    table(rows, ["instruction_set", "pass", "ns"])
    write("cpu_isa", rows, "float32 scan_paths, ns per (batch, token, channel, direction), one thread")


PARTS = {
    "scan": bench_scan,
    "paths": bench_paths,
    "states": bench_states,
    "isa": bench_isa,
    "linear": bench_linear,
    "reference": bench_reference,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to run; everything if not given")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds")
    parser.add_argument("--isa", metavar="PASS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.isa:
        report_instruction_set(options.isa)
        return
    run_parts(PARTS, options.parts, options.quick)


if __name__ == "__main__":
    main()
