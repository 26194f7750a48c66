"""How ``gpu.py`` times: CUDA events, interleaved variants, and what becomes of a variant that does not run."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from gpu_shapes import Ceilings

from vimzoo.ops import backends
from vimzoo.ops.backends import mamba_ssm

Calls = dict[str, Callable[[], Any]]
Row = dict[str, Any]
FLUSH_BYTES = 512 * 2**20
"""Written before each measured call: no cache keeps inputs from the call before, and launches queue up meanwhile."""


@dataclass
class Bench:
    """A device and how to measure on it; ``cuda_bench`` makes the real one."""

    device: torch.device
    seconds_of: Callable[[Callable[[], Any]], float]
    """One call's seconds on the device."""
    peak_of: Callable[[Callable[[], Any]], int]
    """Bytes of device memory at the highest point of one call."""
    until: float = float("inf")
    """When to stop, on `time.monotonic`'s clock."""
    issue_slots: float | None = None
    dtype: torch.dtype = torch.bfloat16
    absent: dict[str, str] = field(default_factory=dict)
    """What is not compared here, and why."""

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() > self.until

    def measure(self, calls: Calls, rounds: int = 15, budget: float = 3.0) -> dict[str, dict[str, Any]]:
        """Medians and quartiles in seconds of every call, interleaved; of one that fails, ``{"failed": why}``.

        At least three rounds are made, and no further one after ``budget`` seconds.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, call in calls.items():
            _, reason = attempt(call)  # compiles, too
            if reason is not None:
                found[name] = {"failed": reason}
        times: dict[str, list[float]] = {name: [] for name in calls if name not in found}
        begin = time.monotonic()
        for made in range(rounds):
            if made >= 3 and time.monotonic() - begin > budget:
                break
            for name in times:
                times[name].append(self.seconds_of(calls[name]))
        for name, values in times.items():
            low, median, high = statistics.quantiles(values, n=4, method="inclusive")
            found[name] = {"median": median, "low": low, "high": high, "rounds": len(values)}
        return {name: found[name] for name in calls}

    def ceilings(self) -> Ceilings:
        """A large copy's bytes, read and written, and a large matrix product's operations, per second."""
        size = 4096 if self.device.type == "cuda" else 64
        source = torch.randn(size, size, 8, device=self.device)
        target = torch.empty_like(source)
        a, b = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        times = self.measure({"copy": lambda: target.copy_(source), "product": lambda: a @ b})
        moved = 2 * source.numel() * source.element_size()
        return Ceilings(
            moved / times["copy"]["median"], 2 * size**3 / times["product"]["median"], self.issue_slots
        )


def attempt(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a call returns, or ``None`` and the first line of what goes wrong."""
    try:
        return call(), None
    except Exception as error:  # out of memory, a kernel that is missing, a rival's own trouble
        text = str(error).strip() or type(error).__name__
        out_of_memory = isinstance(error, torch.OutOfMemoryError)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, "out of memory" if out_of_memory else text.splitlines()[0]


def without_gradients(call: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
    """As inference runs it."""

    def run() -> Any:
        with torch.no_grad():
            return call(*inputs)

    return run


def cuda_bench(minutes: float) -> Bench:
    """The device that torch calls current, for so many minutes.

    Raises:
        SystemExit: if there is none.
    """
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: needs a CUDA device, and torch finds none here")
    device = torch.device("cuda", torch.cuda.current_device())
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def seconds_of(call: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def peak_of(call: Callable[[], Any]) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - flush.numel()

    properties = torch.cuda.get_device_properties(device)
    clock = getattr(
        properties, "clock_rate", None
    )  # kHz; four schedulers issue one instruction each per cycle
    slots = None if clock is None else properties.multi_processor_count * 4 * clock * 1e3
    bench = Bench(device, seconds_of, peak_of, time.monotonic() + 60 * minutes, slots)
    loaded = {backend.name: backend.load() for backend in _with_our_kernels("cuda")}
    rivals = {"mamba_ssm": mamba_ssm.load_scan(), "causal_conv1d": mamba_ssm.load_conv()}
    for name, (found, reason) in (loaded | rivals).items():
        if not found:
            bench.absent[name] = reason
    return bench


def _with_our_kernels(device: str) -> list[backends.Backend]:
    every = [backend for backend in backends.registered() if device in backend.devices]
    return [backend for backend in every if backend.name != mamba_ssm.NAME]


def our_backends(bench: Bench) -> list[str]:
    """Backends with kernels of ours for the device."""
    return [b.name for b in _with_our_kernels(bench.device.type) if b.name not in bench.absent]
