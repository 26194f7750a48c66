"""Light super-resolution x2 on the CPU: ``python benchmarks/cpu_restoration.py [models|core|memory|photograph]``.

MambaIR light against itself with the four scan directions materialised as its authors do, against itself on the plain
loop (backend ``reference``), and against like networks of ``pip install spandrel``, random weights.
Writes ``benchmarks/results/MACHINE/cpu_restoration*.json``; everything that is compared takes turns in one run.
``photograph`` takes most of an hour and runs only if named: a large photograph through the command, as a user does it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from common import machine, measure, run_parts, table, thread_counts, write
from compositions import unfused_cross
from cpu_models import peak_growth
from PIL import Image
from torch import Tensor, nn

from vimzoo.compat import mambair
from vimzoo.data.pairs.photos import photo_files
from vimzoo.layers.ssm import SelectiveSSM, decay_rates
from vimzoo.ops import use_backend

OURS = "mambair_light_x2"
SIZES = (64, 128, 256)
REFERENCE_SIZES = (64,)  # the loop takes a minute for more
PHOTOGRAPH = (4000, 3000)  # width and height
MEMORY_LIMIT = 4 * 10**9


def swinir_light() -> nn.Module:
    """As its authors publish it for light super-resolution x2 (arXiv:2108.10257)."""
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(
        upscale=2, img_size=64, window_size=8, depths=[6] * 4, embed_dim=60, num_heads=[6] * 4, mlp_ratio=2,
        img_range=1.0, upsampler="pixelshuffledirect",
    )  # fmt: skip


def atd_light() -> nn.Module:
    """As its authors publish it for light super-resolution x2 (arXiv:2401.08209)."""
    from spandrel.architectures.ATD import ATD

    return ATD(
        upscale=2, img_size=64, window_size=16, depths=(6,) * 4, embed_dim=48, num_heads=(4,) * 4, mlp_ratio=1,
        category_size=128, num_tokens=64, reducted_dim=8, convffn_kernel_size=7, img_range=1.0,
        upsampler="pixelshuffledirect",
    )  # fmt: skip


def omnisr() -> nn.Module:
    """As its authors publish it for x2 (arXiv:2304.10244)."""
    from spandrel.architectures.OmniSR import OmniSR

    return OmniSR(num_feat=64, block_num=1, res_num=5, up_scale=2, window_size=8)


PEERS: dict[str, Callable[[], nn.Module]] = {
    "mambairv2_light": partial(timm.create_model, "mambairv2_light_x2"),
    "swinir_light": swinir_light,
    "atd_light": atd_light,
    "omnisr": omnisr,
}


_composed: list[Any] = []
"""Scan layers that ran in the other way, one for each call."""


def _materialised(
    self: Any, x: Tensor, z: None, codes: Any, table: None, height: int, width: int, *rest: Any
) -> Tensor:
    """What SelectiveSSM.forward does for four directions, with four copies of the map on our native selective_scan."""
    _composed.append(self)
    weights = (decay_rates(self.A_log), self.dt_proj, self.dt_bias, self.D)
    return unfused_cross(x.flatten(1, -2), self.project(x), *weights, None, (height, width)).view(x.shape)


@contextlib.contextmanager
def materialised() -> Iterator[None]:
    """Scan layers work as their authors compose them."""
    fused = SelectiveSSM.forward
    _composed.clear()
    SelectiveSSM.forward = _materialised  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        SelectiveSSM.forward = fused  # type: ignore[method-assign]
    assert _composed, "no scan layer was called, so nothing is compared"


WAYS: dict[str, Callable[[], Any]] = {
    "fused": contextlib.nullcontext,
    "materialised": materialised,
    "reference": lambda: use_backend("reference"),
}


def make(name: str) -> Callable[[Tensor], Tensor]:
    """A network to call: one of `PEERS`, or ours in one of `WAYS`."""
    torch.manual_seed(0)
    way = WAYS.get(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers' own making
        model = (partial(timm.create_model, OURS) if way else PEERS[name])().eval()

    def call(x: Tensor) -> Tensor:
        with way() if way else contextlib.nullcontext():
            return model(x)

    call.parameters = sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
    return call


def check_alike(calls: dict[str, Callable[[Tensor], Tensor]], x: Tensor) -> None:
    """Our ways compute the same."""
    want = calls["fused"](x)
    for way in calls.keys() & WAYS.keys():
        difference = (calls[way](x) - want).abs().max().item() / want.std().item()
        assert difference < 3e-5, f"{way} differs by {difference:.1e} of the spread"


def bench_models(quick: bool) -> None:
    """Whole networks on one image."""
    rows = []
    calls = {name: make(name) for name in (*WAYS, *PEERS)}
    with torch.inference_mode():
        check_alike(calls, torch.rand(1, 3, 24, 16))
        for size in SIZES[:1] if quick else SIZES:
            x = torch.rand(1, 3, size, size)
            for threads in thread_counts():
                torch.set_num_threads(threads)
                chosen = {k: partial(c, x) for k, c in calls.items() if k != "reference"}
                times = measure(chosen, 3 if quick else 7, 60)
                if size in REFERENCE_SIZES:
                    times |= measure({"reference": partial(calls["reference"], x)}, 2, 0)
                row: dict[str, Any] = {"px": size, "threads": threads}
                row |= {f"{k}_ms": times[k]["median"] * 1e3 if k in times else None for k in calls}
                for way in ("materialised", "reference", "swinir_light"):
                    row[f"x_{way}"] = row[f"{way}_ms"] and row[f"{way}_ms"] / row["fused_ms"]
                rows.append(row | {"times": times})
    table(rows, [key for key in rows[0] if key != "times"])
    counts = ", ".join(f"{name} {call.parameters / 1e3:.0f} K" for name, call in calls.items())  # type: ignore[attr-defined]
    about = (
        f"{OURS} (fused), with materialised directions on the native selective_scan (materialised), on the "
        "reference loop (reference), and peers with random weights; float32, one image of px x px to twice "
        "the size; x: speed-up; "
        f"parameters: {counts}"
    )
    write("cpu_restoration", rows, about)


def bench_core(quick: bool) -> None:
    """The scan layer alone, as the light network has it 24 times."""
    model: Any = timm.create_model(OURS).eval()
    layer = model.groups[0].blocks[0].ss2d.ssm
    rows = []
    for size in SIZES[:1] if quick else SIZES:
        seen: list[tuple[Any, ...]] = []
        handle = layer.register_forward_pre_hook(lambda _, args, kept=seen: kept.append(args))
        with torch.inference_mode():
            model(torch.rand(1, 3, size, size))
            handle.remove()
            for threads in thread_counts():
                torch.set_num_threads(threads)
                calls = {way: partial(_in_way, WAYS[way], layer, seen[0]) for way in WAYS}
                reference = calls.pop("reference")
                times = measure(calls, 5 if quick else 15, 20)
                if size in REFERENCE_SIZES:
                    times |= measure({"reference": reference}, 2, 0)
                row: dict[str, Any] = {"px": size, "threads": threads}
                row |= {f"{way}_ms": times[way]["median"] * 1e3 if way in times else None for way in WAYS}
                for way in ("materialised", "reference"):
                    row[f"x_{way}"] = row[f"{way}_ms"] and row[f"{way}_ms"] / row["fused_ms"]
                rows.append(row | {"times": times})
    table(rows, [key for key in rows[0] if key != "times"])
    about = f"one scan layer of {OURS} with its projections on a map of px x px, float32; x: speed-up"
    write("cpu_restoration_core", rows, about)


def _in_way(way: Callable[[], Any], layer: nn.Module, args: tuple[Any, ...]) -> Tensor:
    with way():
        return layer(*args)


def bench_memory(quick: bool) -> None:
    """Peak memory of one image, each in a fresh process."""
    names = [name for name in (*WAYS, *PEERS) if name != "reference"]
    rows = []
    for size in SIZES[:1] if quick else SIZES:
        row: dict[str, Any] = {"px": size}
        for name in names:
            command = [sys.executable, __file__, "--memory", name, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row[f"{name}_mb"] = float(done.stdout.split()[-1])
        rows.append(row | {"materialised_over_fused": row["materialised_mb"] / row["fused_mb"]})
    table(rows, list(rows[0]))
    about = "peak growth of resident memory during one float32 forward pass, fresh process, 1 thread"
    write("cpu_restoration_memory", rows, about)


def report_memory(name: str, size: int) -> None:
    torch.set_num_threads(1)
    call, x = make(name), torch.rand(1, 3, size, size)
    with torch.inference_mode():
        call(torch.rand(1, 3, 32, 32))  # whatever the libraries set up at first use
        print(peak_growth(lambda: call(x)))


def photograph(size: tuple[int, int]) -> Image.Image:
    """A photograph of ``size``: a smaller one enlarged, with noise for the detail that it lacks."""
    with Image.open(photo_files("test")[-1]) as small:
        large = np.asarray(small.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32)
    noise = np.random.default_rng(0).normal(0, 8, large.shape)
    return Image.fromarray((large + noise).clip(0, 255).astype(np.uint8))


def bench_photograph(quick: bool) -> None:
    """A large photograph through the command, with 4 GB of memory available."""
    width, height = (side // (10 if quick else 1) for side in PHOTOGRAPH)
    commit = machine()["commit"]  # of now: it may be another by the end
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        photograph((width, height)).save(folder / "in" / "photograph.jpg", quality=95)
        torch.manual_seed(0)
        torch.save({"params": mambair.official_state_dict(timm.create_model(OURS))}, folder / f"{OURS}.pth")
        words = [sys.executable, "-m", "vimzoo.restore", "in", "out", "--checkpoint", f"{OURS}.pth"]
        # The threads of the command, not of this process
        ask = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
        threads = int(subprocess.run(ask, check=True, capture_output=True, text=True).stdout)
        start = time.perf_counter()
        command = subprocess.Popen([*words, "--device", "cpu"], cwd=folder, preexec_fn=_limit_memory)
        _, status, used = os.wait4(command.pid, 0)
        seconds = time.perf_counter() - start
        command.returncode = os.waitstatus_to_exitcode(status)
        assert command.returncode == 0, f"the command ended with {command.returncode}"
        with Image.open(folder / "out" / "photograph.jpg") as result:
            restored = result.size
    row = {
        "pixels": f"{width} x {height}", "result": "{} x {}".format(*restored), "threads": threads,
        "seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9, "limit_gb": MEMORY_LIMIT / 1e9,
    }  # fmt: skip
    table([row], list(row))
    about = (
        f"`python -m vimzoo.restore` with weights of {OURS}'s shapes on a JPEG photograph, all defaults, "
        "complete command; seconds: wall time; cpu seconds: summed over threads; peak: largest resident size "
        "of the process; "
        "limit: of its data, beyond which allocations fail"
    )
    write("cpu_restoration_photograph", [row], about, extra={"commit": commit})


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))


PARTS = {"models": bench_models, "core": bench_core, "memory": bench_memory, "photograph": bench_photograph}
USUAL = [part for part in PARTS if part != "photograph"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help="what to run; all but photograph if not given"
    )
    parser.add_argument("--quick", action="store_true", help="the smallest size, fewer rounds")
    parser.add_argument("--memory", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        report_memory(options.memory[0], int(options.memory[1]))
        return
    run_parts(PARTS, options.parts or USUAL, options.quick)


if __name__ == "__main__":
    main()
