"""What images of many sizes cost in training, by strategy: ``python benchmarks/dynamic_shapes.py``.

Draws two epochs of batches of 2,048 photographs, whose heights and widths are drawn with the usual aspect ratios of
cameras, and counts padded and cut pixels, the sizes of batches, how often a size was seen before, and the graphs that
``torch.compile`` makes. ``buckets`` is the trainer's own sampler, as ``data.sides`` takes it; nothing depends on the
machine. Writes ``benchmarks/results/dynamic_shapes.json``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import timm
import torch
from common import table, write

import vimzoo  # noqa: F401  registers the models
from vimzoo.data.batches.buckets import BucketBatches, Buckets, Shapes
from vimzoo.data.batches.drawing import Request

IMAGES, BATCH, SIDE, STEP, EPOCHS = 2048, 64, 224, 16, 2
SIDES = (192, 224, 256)
Shape = tuple[int, int]
Batches = Iterator[tuple[np.ndarray, Shape]]
"""Places of the images, and the height and width in which they are computed."""


def photographs(rng: np.random.Generator) -> np.ndarray:
    """Heights and widths ``(IMAGES, 2)`` in pixels: 4:3, 3:2, 16:9, squares and free crops, a third of them upright."""
    ratios = np.array([4 / 3, 3 / 2, 16 / 9, 1.0, 0.0])[rng.choice(5, IMAGES, p=[0.35, 0.3, 0.1, 0.1, 0.15])]
    ratios = np.where(ratios == 0, 2 ** rng.uniform(0, 1, IMAGES), ratios)
    upright = rng.random(IMAGES) < 1 / 3
    ratios = np.where(upright, 1 / ratios, ratios)  # width over height
    long = rng.integers(400, 2000, IMAGES)
    height = np.where(ratios < 1, long, long / ratios)
    return np.stack([height, height * ratios], 1).round()


def resized(sizes: np.ndarray) -> np.ndarray:
    """Sizes in multiples of `STEP` with the area of a square of `SIDE` and the images' aspect ratios."""
    heights = SIDE * np.sqrt(sizes[:, 0] / sizes[:, 1])
    sides = np.stack([heights, SIDE * SIDE / heights], 1)
    return np.maximum(1, (sides / STEP).round()).astype(int) * STEP


def shuffled(epoch: int, count: int) -> Iterator[np.ndarray]:
    """Places of the images of each batch, in random order; a remainder is left out."""
    order = np.random.default_rng([0, epoch]).permutation(IMAGES)
    yield from order[: IMAGES // count * count].reshape(-1, count)


def one_size(epoch: int, _sizes: np.ndarray) -> Batches:
    """Every image as a square."""
    for places in shuffled(epoch, BATCH):
        yield places, (SIDE, SIDE)


def pad_all(epoch: int, sizes: np.ndarray) -> Batches:
    """Every image padded to the largest height and width of all."""
    height, width = resized(sizes).max(0)
    for places in shuffled(epoch, BATCH):
        yield places, (int(height), int(width))


def pad_batch(epoch: int, sizes: np.ndarray) -> Batches:
    """Every batch padded to its own largest height and width."""
    for places in shuffled(epoch, BATCH):
        height, width = resized(sizes)[places].max(0)
        yield places, (int(height), int(width))


def one_by_one(epoch: int, sizes: np.ndarray) -> Batches:
    """Every image alone, at its own size."""
    for places in shuffled(epoch, 1):
        height, width = resized(sizes)[places[0]]
        yield places, (int(height), int(width))


def sampler(sizes: np.ndarray) -> BucketBatches:
    """The trainer's, with ``data.sides`` as in `SIDES`."""
    shapes = Shapes(SIDES, STEP)
    buckets = Buckets(shapes, shapes.kinds(sizes), (SIDE, SIDE))
    return buckets.sampler(Request(images=IMAGES, batch_size=BATCH, seed=0))


def in_buckets(epoch: int, sizes: np.ndarray) -> Batches:
    """Batches of one of the sampler's sizes each."""
    batches = sampler(sizes)
    batches.epoch = epoch
    for keys in batches:
        yield np.array([key[1] for key in keys]), (int(keys[0][2]), int(keys[0][3]))


STRATEGIES: dict[str, tuple[Callable[[int, np.ndarray], Batches], str]] = {
    "reshape to one square": (one_size, "stretch"),
    "slice one square": (one_size, "cut"),
    "pad to the largest of all": (pad_all, "pad"),
    "pad to the largest of a batch": (pad_batch, "pad"),
    "one image at a time": (one_by_one, "pad"),
    "buckets (data.sides)": (in_buckets, "cut"),
}
"""How batches are drawn, and what happens to an image of another shape than its batch."""


def lost(sizes: np.ndarray, shape: Shape, what: str) -> tuple[float, float, float]:
    """Pixels of padding in a batch, the sum of the shares cut off its images, and the sum of their stretching."""
    height, width = shape
    if what == "pad":
        return float(len(sizes) * height * width - resized(sizes).prod(1).sum()), 0.0, 0.0
    ratio = (width / height) / (sizes[:, 1] / sizes[:, 0])
    stretch = np.maximum(ratio, 1 / ratio)
    if what == "stretch":
        return 0.0, 0.0, float((stretch - 1).sum())
    return 0.0, float((1 - 1 / stretch).sum()), 0.0


def graphs(shapes: list[tuple[int, int, int]]) -> int:
    """Graphs that ``torch.compile`` makes for these batches, as the trainer calls it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = timm.create_model("test_vim", img_size=SIDE, dynamic_img_size=True).eval()
    dynamic = True if len(set(shapes)) > 1 else None
    compiled: Any = torch.compile(
        model, dynamic=dynamic, backend="eager"
    )  # counts graphs without compiling kernels
    for count, height, width in dict.fromkeys(shapes):
        with torch.no_grad():
            compiled(torch.rand(min(count, 2), 3, height, width))
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def main() -> None:
    """Count for every strategy, print and store."""
    sizes = photographs(np.random.default_rng(0))
    rows = []
    for name, (draw, what) in STRATEGIES.items():
        drawn = [batch for epoch in range(EPOCHS) for batch in draw(epoch, sizes)]
        shapes = [(len(places), *shape) for places, shape in drawn]
        pixels = sum(math.prod(shape) for shape in shapes)
        images = sum(shape[0] for shape in shapes)
        padded, cut, stretched = (
            sum(part) for part in zip(*(lost(sizes[p], s, what) for p, s in drawn), strict=True)
        )
        rows.append(
            {
                "strategy": name,
                "padded": 100 * padded / pixels,
                "cut": 100 * cut / images,
                "stretched": 100 * stretched / images,
                "sizes": len(set(shapes)),
                "seen_before": 100 * (1 - len(set(shapes)) / len(shapes)),
                "graphs": graphs(shapes),
            }
        )
    table(rows, list(rows[0]))
    about = (
        "Two epochs of 2,048 simulated photographs, batches of 64 (of a budget of as many tokens in buckets): padded: "
        "per cent of the computed pixels; cut: per cent of an image's area; stretched: per cent by which the aspect "
        "ratio changes, means over images; sizes: different batches by number, height and width; seen before: per cent "
        "of the batches, which a cache by size would serve; graphs: of torch.compile as the trainer calls it"
    )
    write("dynamic_shapes", rows, about, timed=False)


if __name__ == "__main__":
    main()
