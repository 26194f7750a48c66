"""Statistics of image and batch sizes in a run, and of the graphs compiled for them."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from vimzoo.data.batches.drawing import Batching
from vimzoo.data.batches.several import Given

from .state import State


def count(state: State, images: Given) -> None:
    """Count a batch; ``images`` (B, C, H, W) or (B, C, T, H, W) is this process's share of it."""
    size = "x".join(map(str, (len(images) * state.world.size, *images.shape[-2:])))
    state.sizes[size] = state.sizes.get(size, 0) + 1


def compilations() -> int:
    """Graphs that ``torch.compile`` has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # absent until something is compiled
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])


def row(state: State) -> dict[str, float]:
    """Columns for metrics.csv: sizes of images so far, the smallest and largest batch, compiled graphs."""
    batches = [int(size.split("x")[0]) for size in state.sizes]
    shapes = {size.split("x", 1)[1] for size in state.sizes}
    return {
        "image_sizes": len(shapes),
        "batch_min": min(batches),
        "batch_max": max(batches),
        "compilations": compilations(),
    }


def write(state: State, batching: Batching, path: Path) -> None:
    """A table of all sizes so far: height and width in pixels, images and tokens of a batch, how many batches.

    The column of tokens is empty where batches are not measured in tokens.
    """
    sizes = sorted((tuple(map(int, size.split("x"))), batches) for size, batches in state.sizes.items())
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "width", "images", "tokens", "batches"])
        for (images, height, width), batches in sizes:
            tokens = batching.tokens(height, width)
            writer.writerow([height, width, images, tokens and images * tokens, batches])
