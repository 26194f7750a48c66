"""The tables of docs/scaling.md: what was measured, what others have published, and what follows from both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from .markdown import machine_line, number, table
from .results import command
from .sizes import size_of

Result = Mapping[str, Any]

PUBLISHED: dict[str, tuple[int, int | None]] = {
    "vim_tiny_patch16_224": (3957, None),
    "vim_small_patch16_224": (1974, None),
    "vmamba_tiny_v0": (638, 195),
    "vmamba_small_v0": (359, 111),
    "vmamba_base_v0": (268, 84),
    "vmamba_tiny_s2l5": (1340, 464),
    "vmamba_small_s2l15": (877, 314),
    "vmamba_base_s2l15": (646, 247),
    "vmamba_tiny_s1l8": (1686, 571),
    "vmamba_small_s1l20": (1106, 390),
    "vmamba_base_s1l20": (827, 313),
}
"""Images per second of one A100 at 224 px, batch 128: forward pass; forward and backward pass with autocast.

VMamba: its README.md and arXiv:2401.10166 (forward pass in float32). Vim: arXiv:2407.08083 (forward pass in float16).
"""
PEAK = 312e12  # operations per second of an A100 in float16 and bfloat16, NVIDIA's data sheet
LINK = 25e9  # bytes per second and GPU between machines; an assumption: one link of 200 Gbit/s per GPU
JPEG = 138e9 / 1_281_167  # bytes of a training picture: image-net.org's archive of 138 GB
FAILURE_HOURS = (
    16384 * 54 * 24 / 419
)  # of one GPU: 419 unexpected interruptions in 54 days of 16,384, arXiv:2407.21783
STATE = 16  # bytes per parameter in a checkpoint: weights, average and two moments in float32
INTERVAL = 600.0  # seconds, the default of run.save_every


def measured(result: Result, titles: Mapping[str, str]) -> str:
    """Rows as they were measured, and where."""
    body = [[row[key] for key in titles] for row in result["rows"]]
    where = f"Measured: {machine_line(result['machine'])}. By `{command('scaling_steps')}`."
    return f"{table([*titles.values()], body)}\n\n{where}"


def trained_per_second(name: str) -> float:
    """Images per second in training: as published, or at the median of the shares of the peak that those reach."""
    published = PUBLISHED[name][1]
    if published is not None:
        return float(published)
    shares = [share_of_peak(other) for other, (_, trained) in PUBLISHED.items() if trained is not None]
    return statistics.median(shares) * PEAK / (3 * size_of(name).flops)


def share_of_peak(name: str) -> float:
    """Of an A100 in training, which takes three times the operations of the forward pass."""
    return trained_per_second(name) * 3 * size_of(name).flops / PEAK


def speeds() -> str:
    """Steps per second of one A100, and what share of a step the exchange of gradients between 1024 takes."""
    header = [
        "model",
        "images/s forward, published",
        "training, published",
        "training, taken",
        "of the peak, %",
    ]
    header += [
        "steps/s, 128 per GPU",
        "exchange, ms",
        *(f"of computing, {n} per GPU, %" for n in (128, 32, 8)),
    ]
    body = []
    for name, (forward, published) in PUBLISHED.items():
        taken, seconds = trained_per_second(name), 2 * 1023 / 1024 * 4 * size_of(name).params / LINK
        shares = [100 * seconds * taken / batch for batch in (128, 32, 8)]
        peak = 100 * share_of_peak(name)
        body.append([f"`{name}`", forward, published, taken, peak, taken / 128, 1e3 * seconds, *shares])
    return table(header, body)


def sizes(models: Result, saving: Result) -> str:
    """Memory per GPU, bytes per step, and checkpoints of every size of model."""
    header = ["model", "params, M", "memory, GB: DDP", "FSDP2, 8", "FSDP2, 1024"]
    header += [
        "sent per step, GB: DDP, 8",
        "FSDP2, 8",
        "DDP, 1024",
        "FSDP2, 1024",
        "checkpoint, GB",
        "written in, s",
    ]
    keys = ["ddp_state", "fsdp_state_8", "fsdp_state_1024"]
    keys += ["ddp_sent_8", "fsdp_sent_8", "ddp_sent_1024", "fsdp_sent_1024"]
    rate = checkpoint_of(saving)["checkpoint_mb"] / checkpoint_of(saving)["save_s"]
    body = []
    for row in models["rows"]:
        size = STATE * row["parameters"]
        cells = [row["parameters"] / 1e6, *(row[key] / 1e9 for key in keys), size / 1e9, size / 1e6 / rate]
        body.append([f"`{row['model']}`", *cells])
    return table(header, body)


def checkpoint_of(saving: Result, processes: str = "ddp") -> Mapping[str, Any]:
    """What the checkpoint of 1 GB has cost."""
    return next(row for row in saving["rows"] if row["model"] == "1 GB" and row["processes"] == processes)


def reading(trainer: Result, shards: Result) -> str:
    """Images that a core prepares, and cores that a GPU needs."""
    recipe = next(row for row in trainer["rows"] if row["part"] == "reading" and row["workers"] == 1)
    crops = next(row for row in shards["rows"] if row["loader processes"] == 1)
    body = []
    for what, rate, where in (
        ("decoded, cropped, RandAugment, erasing", recipe["images_per_s"], trainer["machine"]),
        ("decoded, cropped", crops["vimzoo"], shards["machine"]),
    ):
        fast, slow = (trained_per_second(f"vmamba_{name}") for name in ("tiny_s1l8", "base_s1l20"))
        cells = [rate, fast / rate, slow / rate, fast * JPEG / 1e6, 1024 * fast * JPEG / 1e9]
        body.append([what, *cells, f"{where['processor']}, {where['date']}"])
    header = ["images are", "images/s and core", "cores per A100: VMamba-T", "VMamba-B"]
    return table([*header, "MB/s per A100: VMamba-T", "GB/s for 1024", "measured"], body)


def intervals(saving: Result) -> str:
    """Young's interval for a save beside training and for one that training waits for, by number of GPUs."""
    costs = [checkpoint_of(saving, kind)[key] for kind in ("ddp", "fsdp") for key in ("stall_s", "save_s")]
    stall, waited = max(costs[0::2]), max(costs[1::2])
    body = []
    for gpus in (8, 64, 1024):
        between = 3600 * FAILURE_HOURS / gpus
        best = [math.sqrt(2 * cost * between) / 60 for cost in (stall, waited)]
        lost = 100 * (stall / INTERVAL + INTERVAL / (2 * between))
        body.append([gpus, between / 3600, *best, lost])
    header = ["GPUs", "hours between failures", f"interval for a stall of {number(stall)} s, minutes"]
    return table(
        [*header, f"for a wait of {number(waited)} s, minutes", "lost with the default of 10 minutes, %"],
        body,
    )


TRAFFIC = {
    "model": "model",
    "processes": "processes",
    "parallel": "`run.parallel`",
    "sent_mb": "sent, MB",
    "formula_mb": "formula, MB",
    "above_percent": "above it, %",
}
STEPS = {"model": "model", "batch": "batch", "steps_per_s": "steps/s", "images_per_s": "images/s"}


RESULTS = ("scaling_traffic", "scaling_steps", "scaling_models", "saving", "trainer", "shards")


def sections(results: Mapping[str, Result]) -> dict[str, str]:
    """The tables by the name of their marker, from `RESULTS` by name; none where one of them is missing."""
    traffic, steps, models, saving, trainer, shards = (results[name] for name in RESULTS)
    if not all(result["rows"] for result in results.values()):
        return {}
    return {
        "traffic": measured(traffic, TRAFFIC),
        "steps": measured(steps, STEPS),
        "speeds": speeds(),
        "sizes": sizes(models, saving),
        "reading": reading(trainer, shards),
        "intervals": intervals(saving),
    }
