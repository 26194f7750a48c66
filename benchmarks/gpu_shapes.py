"""What ``gpu.py`` measures: shapes of layers, models with their rivals, and what each costs at least."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

import sass_records
import torch
from compositions import Inputs, layer_inputs

from vimzoo.ops import BIDIRECTIONAL, CROSS
from vimzoo.ops.runtime import nvrtc


@dataclass(frozen=True)
class Layer:
    """The scan of one layer: Vim's where the grid is one row, SS2D's otherwise."""

    family: str
    batch: int
    grid: tuple[int, int]
    channels: int
    states: int
    rank: int

    @property
    def name(self) -> str:
        """Such as ``Vim-T 1x197, B 64``."""
        return f"{self.family} {self.grid[0]}x{self.grid[1]}, B {self.batch}"

    @property
    def directions(self) -> int:
        """Paths."""
        return 2 if self.grid[0] == 1 else 4

    @property
    def elements(self) -> int:
        """Images x tokens x channels x directions."""
        return self.batch * self.grid[0] * self.grid[1] * self.channels * self.directions

    def settings(self) -> dict[str, Any]:
        """Paths and grid, as `vimzoo.ops.scan_paths` takes them."""
        return {"paths": BIDIRECTIONAL if self.directions == 2 else CROSS, "grid": self.grid}

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """Fresh random tensors."""
        return layer_inputs(
            self.batch, self.channels, self.states, self.rank, self.grid, device=device, dtype=dtype
        )

    def least_bytes(self, item: int = 2) -> int:
        """Each activation of `scan_paths` read once and its output written once, in a dtype of ``item`` bytes."""
        tokens = self.batch * self.grid[0] * self.grid[1]
        own = self.directions == 2  # then each direction has its x, and there is a gate
        planes = (self.directions + 1 if own else 1) + 1
        return item * tokens * (planes * self.channels + self.directions * (self.rank + 2 * self.states))

    def small(self) -> Layer:
        """The same for one image of a few tokens, which the reference can be run on."""
        grid = (
            (1, min(197, self.grid[1])) if self.grid[0] == 1 else tuple(min(14, side) for side in self.grid)
        )
        return Layer(self.family, 1, grid, self.channels, self.states, self.rank)  # type: ignore[arg-type]


def layers() -> list[Layer]:
    """Vim-T/S at 224, 512, 1248 px; VMamba-T's stages at 224 and 512 px; MambaIR from 64 x 64 to 512 x 512."""
    found = [
        Layer(family, batch, (1, tokens), channels, 16, rank)
        for family, channels, rank in (("Vim-T", 384, 12), ("Vim-S", 768, 24))
        for tokens in (197, 1025, 6085)
        for batch in (64, 8, 1)
    ]
    found += [
        Layer(f"VMamba-T stage {stage + 1}", batch, (px // 4 >> stage,) * 2, 96 << stage, 1, 6 << stage)
        for px in (224, 512)
        for stage in range(4)
        for batch in (128, 1)
    ]
    found += [
        Layer(family, 1, (side, side), channels, states, rank)
        for family, channels, states, rank in (("MambaIR light", 72, 10, 4), ("MambaIR", 360, 16, 12))
        for side in (64, 128, 256, 512)
    ]
    return found


# name in charts: timm's name, and what it is compared with
MODELS = {
    "Vim-T": "vim_tiny_patch16_224",
    "DeiT-T": "deit_tiny_patch16_224",
    "Vim-S": "vim_small_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "VMamba-T": "vmamba_tiny_s1l8",
    "VMamba-S": "vmamba_small_s1l20",
    "VMamba-B": "vmamba_base_s1l20",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
}
SIZED = ("vim", "deit", "swin")
"""Models that are told their image size when they are made."""
IMAGES = {224: 64, 384: 32, 512: 16, 768: 8, 1024: 4, 1248: 2}
"""Images of a batch at each resolution."""


def compiler_version(backend: str) -> str:
    """Of the compiler that runs here for ``backend``, empty if there is none."""
    if backend == "cuda":
        library, version = nvrtc.load()
        return version if library is not None else ""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return ""


def counted_slots(backend: str, states: int, way: str, version: str | None = None) -> float | None:
    """Issue slots per element of ``results/sass_*.json``, for a layer with as many states.

    Args:
        version: of the compiler; by default of the one that runs here.

    Returns:
        ``None`` if this layer, or the code of this compiler's release, has not been counted.
    """
    running = sass_records.release(compiler_version(backend) if version is None else version)
    entry = sass_records.read(f"sass_{backend}")["versions"].get(running, {"rows": []})
    kernel = "scan_forward" if way == "forward" else "scan_backward"
    rows = [row for row in entry["rows"] if row["kernel"] == kernel]
    examples = {
        16: "Vim-T 224, 64 images",
        1: "VMamba-T stage 1, 128 images",
        10: "MambaIR light 64x64, 1 image",
    }
    return next((row["slots"] for row in rows if row["shape"] == examples.get(states)), None)


@dataclass(frozen=True)
class Ceilings:
    """What the device can do at most: measured rates, and warp instructions a second from its clock."""

    copy_bytes: float
    product_flops: float
    issue_slots: float | None

    def of_bandwidth(self, least_bytes: int, seconds: float) -> float:
        """Share of the time that moving the least bytes takes at the rate of a copy."""
        return least_bytes / self.copy_bytes / seconds

    def of_issue(self, slots: float | None, elements: int, seconds: float) -> float | None:
        """Share of the time that issuing the counted instructions, for 32 elements at once, takes."""
        if slots is None or self.issue_slots is None:
            return None
        return slots * elements / 32 / self.issue_slots / seconds
