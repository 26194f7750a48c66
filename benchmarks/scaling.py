"""Figures for docs/scaling.md: scaling_traffic.json and scaling_steps.json of this machine, and scaling_models.json.

``python benchmarks/scaling.py``: the bytes that training really sends between two and three processes, counted by the
kernel at their sockets, beside the formulas; the processor time of training steps; and, by the same formulas, bytes and
memory per GPU for every size of model. `tools.cards` makes the tables from it.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from common import table, write
from torch import nn

from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.loop import train_step
from vimzoo.engine.processes.parallel import World, units
from vimzoo.engine.processes.spawn import spawn

MODELS = (
    *(f"vim_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(
        f"vmamba_{name}"
        for name in ("tiny_v0", "small_v0", "base_v0", "tiny_s2l5", "small_s2l15", "base_s2l15")
    ),
    *(f"vmamba_{name}" for name in ("tiny_s1l8", "small_s1l20", "base_s1l20")),
    *("mambair_light_x2", "mambair_sr_x2", "mambair_realdn_unet"),
    *(f"mambairv2_{name}_x2" for name in ("light", "sr_small", "sr_base", "sr_large")),
)
"""One of each size."""
MEASURED = ("vim_tiny_patch16_224", "vmamba_tiny_s1l8")
NUMBER = 4  # bytes: weights, gradients and moments are float32, whatever run.amp is
SENT = 200  # where Linux keeps tcpi_bytes_sent in struct tcp_info


def gradient_bytes(model: nn.Module) -> int:
    """Of all parameters that are trained."""
    return NUMBER * sum(p.numel() for p in model.parameters() if p.requires_grad)


def ddp_bytes(model: nn.Module, processes: int) -> float:
    """Bytes that each process sends in a step under DDP: a ring all-reduce of the gradients."""
    return 2 * (processes - 1) / processes * gradient_bytes(model)


def unit_bytes(model: nn.Module, processes: int) -> list[int]:
    """Bytes of each unit of FSDP2 when it is gathered, the whole model's own parameters last.

    A parameter is cut along its first dimension into as many equal parts as there are processes, and padded to that.
    """
    found, seen = [], set()
    for unit in units(model):
        own = [p for p in unit.parameters() if p not in seen]
        seen.update(own)
        rows = [-(-p.shape[0] // processes) * processes * math.prod(p.shape[1:]) for p in own]
        found.append(NUMBER * sum(rows))
    return found


def fsdp_bytes(model: nn.Module, processes: int, reduce: int = 1) -> float:
    """Bytes that each process sends in a step under FSDP2.

    Units are gathered in the forward and again in the backward pass, the rest of the model once; then gradients are
    reduced and scattered.

    Args:
        reduce: how often that sends the gradients; gloo reduces and scatters by an all-reduce, 2.
    """
    *inner, rest = unit_bytes(model, processes)
    return (processes - 1) / processes * ((2 + reduce) * sum(inner) + (1 + reduce) * rest)


def sent() -> int:
    """Bytes that the TCP sockets of this process have sent so far, by the kernel's count (Linux)."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket, or closed by now
            continue
        with connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (
                socket.AF_INET,
                socket.AF_INET6,
            ):
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SENT + 8)
                total += struct.unpack_from("=Q", info, SENT)[0]
    return total


def settings(model: str, *words: str) -> dict[str, Any]:
    """Training on the digits, which are not read, enlarged to what the model takes."""
    return composed_settings(
        ["model=timm", f"model.model_name={model}", "run.device=cpu", "run.epochs=1", *words]
    )


def traffic(cfg: dict[str, Any], out: Path, steps: Sequence[str], world: World) -> float:
    """What each process does; the first one leaves in ``out`` what a step sends, and what it should by the formulas."""
    data, found = build_data(cfg), {}
    whole = build_state(cfg, data, 1).model  # not sharded
    formulas = {"ddp": ddp_bytes(whole, world.size), "fsdp": fsdp_bytes(whole, world.size, reduce=2)}
    images, targets = torch.randn(2, *data.input_size), torch.tensor([0, 1])
    for parallel, formula in formulas.items():
        state = build_state({**cfg, "run": {**cfg["run"], "parallel": parallel}}, data, 1, world)
        for step in range(-2, int(steps[0])):
            if step == 0:  # DDP arranges its buckets before
                world.wait()
                before = sent()
            train_step(state, images, targets)
        world.wait()
        moved = sum(world.gather((sent() - before) / int(steps[0]))) / world.size
        found[parallel] = {"sent": moved, "formula": formula}
    torch.save(found, out / f"traffic{world.rank}.pt")
    return 0.0


def measured_traffic(model: str, processes: int, side: int, steps: int = 3) -> list[dict[str, Any]]:
    """MB that each process sends in a step under DDP and FSDP2, really and by the formula."""
    words = [f"data.img_size={side}", f"data.batch_size={2 * processes}"]
    with tempfile.TemporaryDirectory() as name:
        spawn(traffic, settings(model, f"devices={processes}", *words), Path(name), [str(steps)])
        found = torch.load(Path(name) / "traffic0.pt")
    return [
        {
            "model": model,
            "processes": processes,
            "parallel": parallel,
            "sent_mb": row["sent"] / 1e6,
            "formula_mb": row["formula"] / 1e6,
            "above_percent": 100 * (row["sent"] / row["formula"] - 1),
        }
        for parallel, row in found.items()
    ]


def step_time(model: str, batch: int, rounds: int) -> dict[str, Any]:
    """Processor time of a training step on one thread: its wall time where nothing else runs."""
    torch.set_num_threads(1)
    cfg = settings(model, "data.img_size=224", f"data.batch_size={batch}")
    data = build_data(cfg)
    state, times = build_state(cfg, data, 1), []
    images, targets = torch.randn(batch, *data.input_size), torch.arange(batch) % 10
    for _ in range(rounds + 1):
        begin = time.process_time()
        train_step(state, images, targets)
        times.append(time.process_time() - begin)
    seconds = sorted(times[1:])[rounds // 2]
    return {
        "model": model,
        "batch": batch,
        "steps_per_s": 1 / seconds,
        "images_per_s": batch / seconds,
    }


def arithmetic(name: str) -> dict[str, Any]:
    """Bytes of a model's training, without its activations."""
    with torch.device("meta"):
        model = timm.create_model(name)
    row: dict[str, Any] = {"model": name, "parameters": gradient_bytes(model) // NUMBER}
    # Weights, gradients, their copy in DDP's buckets, two moments, average
    row["ddp_state"] = 6 * gradient_bytes(model)
    for processes in (8, 1024):
        *inner, rest = unit_bytes(model, processes)
        # All but the buckets in parts; gathered: the rest, the unit at work and the next one; gradients of a unit
        parts = 5 * (sum(inner) + rest) // processes
        row[f"fsdp_state_{processes}"] = parts + rest + 2 * max(inner, default=0) + max(*inner, rest)
        row[f"ddp_sent_{processes}"] = ddp_bytes(model, processes)
        row[f"fsdp_sent_{processes}"] = fsdp_bytes(model, processes)
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure, count and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    rows: list[dict[str, Any]] = []
    for model in MEASURED:
        for processes in (2, 3):
            rows += measured_traffic(model, processes, side=64)
            table(rows[-2:], list(rows[-1]))
    about = "MB that each process sends in a step, counted at its sockets, and by the formula; images of 64 pixels"
    write("scaling_traffic", rows, about)
    rows = []
    for model in (MEASURED[0], "vim_small_patch16_224", MEASURED[1]):
        for batch in (2, 16):
            rows.append(step_time(model, batch, rounds))
            table(rows[-1:], list(rows[-1]))
    write("scaling_steps", rows, "steps of the trainer on one thread, float32, 224 pixels, by processor time")
    about = "bytes per GPU without activations, and bytes that each GPU sends in a step, by formula"
    write("scaling_models", [arithmetic(name) for name in MODELS], about, timed=False)


if __name__ == "__main__":
    main()
