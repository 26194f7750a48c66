"""Speed and memory of whole models on the CPU: ``python benchmarks/cpu_models.py [models|vmamba|memory]``.

Writes ``benchmarks/results/MACHINE/cpu_*.json`` and prints the same as tables; everything that is compared takes turns
in one run.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from common import measure, run_parts, table, thread_counts, write
from compositions import unfused_cross
from torch import Tensor

import vimzoo  # noqa: F401  registers the models

RIVALS = {"vmamba": "vmamba_tiny_s1l8", "swin": "swin_tiny_patch4_window7_224", "convnext": "convnext_tiny"}
MODELS = {"vim": "vim_tiny_patch16_224", "deit": "deit_tiny_patch16_224"}
SIZES = (224, 512, 1024, 1248)


def make_model(name: str, size: int | None, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **({"img_size": size} if size else {})).eval().to(dtype)


def resident(field: str = "VmRSS") -> float:
    """MB of this process in memory, on Linux; what was freed counts no more."""
    if field == "VmRSS":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak_growth(call: Callable[[], Any]) -> float:
    """MB by which ``call`` raises this process's resident size at its highest, on Linux."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    call()
    return resident("VmHWM") - before


def in_fresh_process(*arguments: str) -> float:
    """The number that this script prints last when started anew with ``arguments``."""
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def report_memory(name: str, size: int, dtype: str) -> None:
    torch.set_num_threads(1)
    model = make_model(name, size, getattr(torch, dtype))
    x = torch.randn(1, 3, size, size, dtype=getattr(torch, dtype))
    with torch.inference_mode():
        make_model(name, 32, x.dtype)(x[..., :32, :32])  # whatever the libraries set up at first use
        print(peak_growth(lambda: model(x)))


def bench_memory(quick: bool) -> None:
    """Peak memory of one image through Vim-tiny and DeiT-tiny, and of a training step of VMamba-T."""
    rows = []
    for size in SIZES[:2] if quick else SIZES:
        for dtype in ("float32", "bfloat16"):
            row = {f"{k}_mb": in_fresh_process("--memory", n, str(size), dtype) for k, n in MODELS.items()}
            rows.append(
                {"px": size, "dtype": dtype} | row | {"deit_over_vim": row["deit_mb"] / row["vim_mb"]}
            )
    table(rows, ["px", "dtype", "vim_mb", "deit_mb", "deit_over_vim"])
    about = "peak growth of resident memory during the forward pass of one image, fresh process, 1 thread"
    write("cpu_memory", rows, about)
    steps = []
    for batch in (1, 8):
        ways = ("fused", "materialised")
        row = {f"{way}_mb": in_fresh_process("--training-memory", way, str(batch)) for way in ways}
        steps.append({"batch": batch} | row | {"ratio": row["materialised_mb"] / row["fused_mb"]})
    table(steps, ["batch", "fused_mb", "materialised_mb", "ratio"])
    about = (
        "peak growth of resident memory during one float32 training step of vmamba_tiny_s1l8, 224 px, 1 thread; "
        "materialised: four copies of the map, a dt product and a grouped scan on the native selective_scan"
    )
    write("cpu_vmamba_memory", steps, about)


def bench_models(quick: bool) -> None:
    """Whole Vim-tiny against timm's DeiT-tiny, one image."""
    rows = []
    for size in SIZES[:2] if quick else SIZES:
        for dtype in ("float32", "bfloat16"):
            x = torch.randn(1, 3, size, size, dtype=getattr(torch, dtype))
            models = {k: make_model(n, size, x.dtype) for k, n in MODELS.items()}
            for threads in thread_counts():
                torch.set_num_threads(threads)
                with torch.inference_mode():
                    calls = {k: partial(m, x) for k, m in models.items()}
                    times = measure(calls, 15 if size < 600 else 7, 10)
                row = {"px": size, "dtype": dtype, "threads": threads}
                row |= {f"{k}_ms": t["median"] * 1e3 for k, t in times.items()}
                rows.append(row | {"speed_vs_deit": row["deit_ms"] / row["vim_ms"], "times": times})
    table(rows, ["px", "dtype", "threads", "vim_ms", "deit_ms", "speed_vs_deit"])
    about = (
        "one image, whole forward pass; vim: vim_tiny_patch16_224, deit: timm's unmodified "
        "deit_tiny_patch16_224 (F.linear, fused attention); speed vs deit: its time divided by vim's"
    )
    write("cpu_models", rows, about)


def scan_share(model: torch.nn.Module, x: Tensor) -> float:
    """Share of a forward pass that is spent in the scan operator, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    return sum(e.self_cpu_time_total for e in events if e.key == "vimzoo::scan_paths") / total


def bench_vmamba(quick: bool) -> None:
    """Whole VMamba-T against timm's Swin-T and ConvNeXt-T at 224 px."""
    rows = []
    models = {k: make_model(n, None, torch.float32) for k, n in RIVALS.items()}
    for batch in (1, 8):
        x = torch.randn(batch, 3, 224, 224)
        for threads in thread_counts():
            torch.set_num_threads(threads)
            with torch.inference_mode():
                times = measure({k: partial(m, x) for k, m in models.items()}, 5 if quick else 9, 20)
                share = scan_share(models["vmamba"], x)
            row = {"batch": batch, "threads": threads} | {
                f"{k}_ms": t["median"] * 1e3 for k, t in times.items()
            }
            row |= {f"speed_vs_{k}": row[f"{k}_ms"] / row["vmamba_ms"] for k in ("swin", "convnext")}
            row |= {"scan_share": share}
            rows.append(row | {"times": times})
    table(rows, ["batch", "threads", "vmamba_ms", "swin_ms", "convnext_ms", "speed_vs_swin", "scan_share"])
    about = (
        "float32 forward pass at 224 px of vmamba_tiny_s1l8 and timm's unmodified "
        "swin_tiny_patch4_window7_224 and convnext_tiny; speed: their time divided by vmamba's; scan_share: "
        "the scan's share of vmamba's time in a profile, for which its layers run in parts"
    )
    write("cpu_vmamba", rows, about)


def report_training_memory(way: str, batch: int) -> None:
    from vimzoo.layers.ssm import SelectiveSSM, decay_rates

    def materialised(
        self: Any, x: Tensor, z: None, codes: Any, table: None, height: int, width: int
    ) -> Tensor:
        rows = self.project(x)
        weights = (decay_rates(self.A_log), self.dt_proj, self.dt_bias, self.D)
        return unfused_cross(x.flatten(1, -2), rows, *weights, None, (height, width))

    if way == "materialised":
        SelectiveSSM.forward = materialised  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model(RIVALS["vmamba"]).train()
    x = torch.randn(batch, 3, 224, 224)
    print(peak_growth(lambda: model(x).square().mean().backward()))


PARTS = {"models": bench_models, "vmamba": bench_vmamba, "memory": bench_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to run; everything if not given")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds")
    parser.add_argument("--training-memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, metavar=("MODEL", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        name, size, dtype = options.memory
        report_memory(name, int(size), dtype)
    elif options.training_memory:
        way, batch = options.training_memory
        report_training_memory(way, int(batch))
    else:
        run_parts(PARTS, options.parts, options.quick)


if __name__ == "__main__":
    main()
