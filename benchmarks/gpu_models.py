"""Part of ``gpu.py``: whole models, inference and training steps, their speed and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from gpu_bench import Bench, Row, attempt, without_gradients
from gpu_shapes import IMAGES, MODELS, SIZED
from torch import Tensor

import vimzoo  # noqa: F401  registers the models


def made(name: str, px: int, bench: Bench) -> torch.nn.Module:
    """A model without weights of anyone's, for images of this size."""
    timm_name = MODELS.get(name, name)
    size = {"img_size": px} if any(word in timm_name for word in SIZED) else {}
    return timm.create_model(timm_name, **size).to(bench.device)


def inference(model: torch.nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """The forward pass of the model in the images' dtype."""
    model = model.eval().to(images.dtype)
    return without_gradients(model, (images,))


def training(model: torch.nn.Module, images: Tensor, compiled: bool = False) -> Callable[[], None]:
    """Forward under autocast, backward, and a step of AdamW on float32 weights."""
    model = model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=images.is_cuda)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    run: Any = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = F.cross_entropy(run(images.float()).float(), labels)
        loss.backward()
        optimizer.step()

    return step


def model_call(name: str, px: int, images: int, way: str, compiled: bool, bench: Bench) -> Callable[[], Any]:
    """One call of ``way``, "inference" or "training"."""
    model = made(name, px, bench)
    batch = torch.randn(images, 3, px, px, device=bench.device, dtype=bench.dtype)
    if way == "training":
        return training(model, batch, compiled)
    call = inference(model, batch)
    if not compiled:
        return call
    return without_gradients(torch.compile(model), (batch,))


def models(bench: Bench, names: Iterable[str], sizes: Iterable[int]) -> list[Row]:
    """Images per second and peak memory: all in eager mode first, then compiled where time is left.

    Compiling takes up to a minute, so compiled models come last, smallest images first.
    """
    rows: list[Row] = []
    plan = [
        (px, way, compiled) for compiled in (False, True) for px in sizes for way in ("inference", "training")
    ]
    for px, way, compiled in plan:
        for name in names:
            images = IMAGES.get(px, 2)
            mode = "compiled" if compiled else "eager"
            row: Row = {"px": px, "images": images, "pass": way, "mode": mode, "model": name}
            if bench.over:
                rows.append(row | {"failed": "no time left"})
                continue
            rows.append(row | one_model(bench, name, px, images, way, compiled))
    return rows


def one_model(bench: Bench, name: str, px: int, images: int, way: str, compiled: bool) -> Row:
    """Speed and memory of one model, which is gone afterwards."""
    call, reason = attempt(partial(model_call, name, px, images, way, compiled, bench))
    if reason is not None:
        return {"failed": reason}
    (time,) = bench.measure({name: call}, rounds=7, budget=2.0).values()
    if "failed" in time:
        return time
    per_second = images / time["median"]
    return {**time, "images_per_second": per_second, "peak_MB": bench.peak_of(call) / 2**20}
