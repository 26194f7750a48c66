"""Draws scan_paths.png and receptive_field.png into the folder of this script.

The first shows scan paths on small maps. The second shows what the centre of a map sees through one block of given
paths: the gradient of its output with respect to every token, in size, averaged over random inputs and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from vimzoo.layers import SelectiveSSM
from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath
from vimzoo.ops.paths.path import ATROUS, SNAKES, pad_paths, path_arguments
from vimzoo.plots import draw_path

HERE = Path(__file__).parent
COLUMN = ScanPath("column")
PATHS = {
    'ScanPath("row")': ScanPath("row"),
    'ScanPath("row").reversed()': ScanPath("row").reversed(),
    'ScanPath("column")': COLUMN,
    'ScanPath("column").reversed()': COLUMN.reversed(),
    "ScanPath.snake()": ScanPath.snake(),
    'ScanPath.snake("column")': ScanPath.snake("column"),
    "ScanPath.snake().flipped(vertical=True)": ScanPath.snake().flipped(vertical=True),
    "ScanPath.hilbert()": ScanPath.hilbert(),
    "ScanPath.window(4)": ScanPath.window(4),
    "ScanPath.window(3), padded": ScanPath.window(3),
    "ScanPath.stride(2)": ScanPath.stride(2),
    "ScanPath.stride(2, 1, 0, along=column)": ScanPath.stride(2, 1, 0, along=COLUMN),
    "ScanPath.diagonal()": ScanPath.diagonal(),
    "ScanPath.diagonal(zigzag=False)": ScanPath.diagonal(zigzag=False),
    "ScanPath.spiral()": ScanPath.spiral(),
    "ScanPath.hilbert() on 5 x 9": ScanPath.hilbert(),
}
WINDOW = ScanPath.window(5)
SETS: dict[str, Sequence[ScanPath]] = {
    "Vim: rows both ways": BIDIRECTIONAL,
    "VMamba: rows and columns both ways": CROSS,
    "PlainMamba: snakes": SNAKES,
    "LocalMamba: rows and windows of 5": pad_paths((*BIDIRECTIONAL, WINDOW, WINDOW.reversed())),
    "EfficientVMamba: strides of 2": ATROUS,
    "Hilbert, its transpose, both ways": [
        moved
        for path in (ScanPath.hilbert(), ScanPath.hilbert().transposed())
        for moved in (path, path.reversed())
    ],
}


def scan_paths_figure() -> None:
    """Every kind of path, with the expression that makes it."""
    figure, panels = plt.subplots(4, 4, figsize=(13, 13.6), layout="constrained")
    for (title, path), axes in zip(PATHS.items(), panels.flat, strict=True):
        draw_path(axes, path, *((5, 9) if "5 x 9" in title else (8, 8)))
        axes.set_title(title, fontsize=9.5, family="monospace")
    figure.suptitle("Scan paths on a map of 8 x 8 tokens: from the ring, dark to light", fontsize=13)
    figure.savefig(HERE / "scan_paths.png", dpi=90)
    plt.close(figure)


def receptive_field(paths: Sequence[ScanPath], size: int, rounds: int = 16, dim: int = 32) -> np.ndarray:
    """Mean size of ``d out[centre] / d x[token]`` for a fresh `SelectiveSSM` per round, ``(size, size)``."""
    codes, table = path_arguments(paths, size, size)
    centre = size * size // 2
    total = torch.zeros(size * size)
    for seed in range(rounds):
        torch.manual_seed(seed)
        layer = SelectiveSSM(dim, d_state=16, directions=len(paths))
        x = torch.randn(8, size * size, dim, requires_grad=True)
        out = layer(x, None, codes, table, size, size)[:, centre]
        (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
        total += gradient.square().sum(-1).mean(0)
    return (total / rounds).sqrt().view(size, size).numpy()


def receptive_field_figure(size: int = 31) -> None:
    """One block's receptive field for each set of paths, on one logarithmic scale."""
    figure, panels = plt.subplots(2, 3, figsize=(11, 7.6), layout="constrained")
    for (title, paths), axes in zip(SETS.items(), panels.flat, strict=True):
        field = receptive_field(paths, size)
        decades = np.log10(np.maximum(field / field.max(), 1e-6))
        image = axes.imshow(decades, vmin=-4, vmax=0, cmap="magma")
        axes.set_title(title, fontsize=10)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(
        image, ax=panels, shrink=0.7, label="gradient with respect to the token, log10 of the largest"
    )
    figure.suptitle(
        f"What the centre of a {size} x {size} map sees through one selective scan, untrained", fontsize=12
    )
    figure.savefig(HERE / "receptive_field.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    scan_paths_figure()
    receptive_field_figure()
