"""What Triton makes of the kernels, without a GPU: ``python benchmarks/sass.py``.

Runs the operators on CPU tensors while a stand-in for the driver names the target, so that every kernel is compiled
with exactly the arguments a GPU would get, and never launched. From the disassembly of NVIDIA code it counts local
memory and the instructions of the loops over steps: issue slots per (image, channel, step, direction). Records them
for the Triton that runs in ``benchmarks/results/sass_triton.json``.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from vimzoo.ops import BIDIRECTIONAL, CROSS, scan_paths
from vimzoo.ops.runtime import triton_backend

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
# images, tokens of the grid, channels, states, dt columns, directions' own x
SHAPES = {
    "Vim-T 224, 64 images": (64, (1, 197), 384, 16, 12, True),
    "Vim-T 224, 1 image": (1, (1, 197), 384, 16, 12, True),
    "VMamba-T stage 1, 128 images": (128, (56, 56), 192, 1, 6, False),
    "VMamba-T stage 1, 1 image": (1, (56, 56), 192, 1, 6, False),
    "MambaIR 64x64, 8 images": (8, (64, 64), 360, 16, 12, False),
    "MambaIR light 64x64, 1 image": (1, (64, 64), 120, 10, 4, False),
}


@dataclass
class Compiled:
    """One kernel as Triton compiled it."""

    name: str
    settings: dict[str, Any]
    warps: int
    assembly: dict[str, Any] = field(repr=False)

    def instructions(self) -> list[tuple[int, str]]:
        """Address and text of every instruction of an NVIDIA binary."""
        return disassemble(self.assembly["cubin"])


def disassemble(cubin: bytes, name: str = "") -> list[tuple[int, str]]:
    """Address and text of every instruction of the kernel ``name``, or of a binary that holds only one."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-hex", file.name], capture_output=True, text=True, check=True).stdout
    return disassembled(
        re.split(r"\.section\s", text[text.index(f".section\t.text.{name}") :], maxsplit=2)[1]
    )


def disassembled(text: str) -> list[tuple[int, str]]:
    """Address and text of every instruction in nvdisasm's output, branch targets as addresses."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    found: list[tuple[int, str]] = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif code := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            address = int(code[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
            found.append((address, code[2]))
    return [
        (at, re.sub(r"`\((\.L_x_\d+)\)", lambda label: hex(labels.get(label[1], -1)), code))
        for at, code in found
    ]


def operation(code: str) -> str:
    """The opcode without its predicate and modifiers."""
    return re.sub(r"^@!?U?P\w+\s+", "", code).split()[0].split(".")[0]


def spans(instructions: list[tuple[int, str]]) -> list[tuple[int, int]]:
    """Every loop: from a backward branch's target to the branch."""
    found = []
    for at, code in instructions:
        target = re.search(r"\b0x([0-9a-f]+)\b", code) if operation(code) == "BRA" else None
        if target and int(target[1], 16) < at:
            found.append((int(target[1], 16), at))
    return found


def loops(instructions: list[tuple[int, str]]) -> list[list[str]]:
    """Bodies of the innermost loops, none within another."""
    found = spans(instructions)
    inner = [s for s in found if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in found)]
    return [[operation(code) for at, code in instructions if first <= at <= last] for first, last in inner]


@contextlib.contextmanager
def compiling(target: str) -> Iterator[list[Compiled]]:
    """Within the block the ``triton`` backend takes CPU tensors, compiles for ``target`` and launches nothing.

    Yields:
        the list to which each kernel is added. What the operators return is uninitialised memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    found: list[Compiled] = []
    number = list(TARGETS).index(target)
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget(*TARGETS[target]),
        get_current_device=lambda: 1000 + number,  # kernels are kept per device
        get_current_stream=lambda device: 0,
        utils=SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 101376}),
    )

    def compile_only(kernel: Any, grid: Any, device: Any, *args: Any, warps: int = 1, **meta: Any) -> None:
        made = kernel.warmup(*args, grid=grid, **meta, num_warps=warps, enable_fp_fusion=True)
        found.append(Compiled(kernel.__name__, meta, warps, made.asm))

    triton.runtime.driver.set_active(driver)
    try:
        with (
            mock.patch.object(triton_backend, "launch", compile_only),
            mock.patch.object(triton_backend, "check_device_type", lambda device: None),
        ):
            yield found
    finally:
        triton.runtime.driver._active = None


def inputs(name: str, dtype: torch.dtype = torch.bfloat16) -> tuple[dict[str, Tensor | None], dict[str, Any]]:
    """Tensors, without values, and settings of `scan_paths` at one of `SHAPES`."""
    batch, grid, channels, states, rank, own = SHAPES[name]
    K, length = (2 if own else 4), grid[0] * grid[1]

    def empty(*shape: int) -> Tensor:
        """Memory that is never touched, so it costs nothing."""
        return torch.empty(shape, dtype=dtype)

    tensors: dict[str, Tensor | None] = {
        "x": empty(K, batch, length, channels).permute(1, 2, 0, 3) if own else empty(batch, length, channels),
        "x_dbl": empty(K, batch, length, rank + 2 * states).permute(1, 2, 0, 3),
        "A": torch.empty(K, channels, states),
        "dt_weight": torch.empty(K, channels, rank),
        "dt_bias": torch.empty(K, channels),
        "D": torch.empty(K, channels),
        "z": empty(batch, length, 2 * channels)[..., channels:] if own else None,
    }
    return tensors, {"paths": BIDIRECTIONAL if own else CROSS, "grid": grid}


def count(made: Compiled) -> dict[str, Any]:
    """What runs per step: issue slots per (image, channel, step, direction) of all innermost loops, and of what kind.

    The backward scan has two, one that recomputes states and one that sweeps back over ``STRETCH`` steps at once.
    """
    instructions = made.instructions()
    bodies = loops(instructions)
    longest = max(bodies, key=len)
    steps = [made.settings.get("STRETCH", 1) if body is longest else 1 for body in bodies]
    kinds = Counter(longest)
    everything = Counter(operation(code) for _, code in instructions)
    lanes = 32 * made.warps / made.settings["BLOCK_D"]
    return {
        "kernel": made.name,
        "block_d": made.settings["BLOCK_D"],
        "steps": max(steps),
        "loops": [len(body) for body in bodies],
        "slots": sum(len(body) / n for body, n in zip(bodies, steps, strict=True)) * lanes,
        "mufu": kinds["MUFU"],
        "loads": kinds["LDG"],
        "shuffles": kinds["SHFL"],
        "shared": kinds["LDS"] + kinds["STS"],
        "local": everything["LDL"] + everything["STL"],
        "kinds": dict(kinds.most_common(12)),
    }


@contextlib.contextmanager
def as_if(images: int) -> Iterator[None]:
    """One image is cut up as if there were ``images``, for whose gradients there may be no memory."""
    block = triton_backend.channel_block

    def chosen(walks: int, *sizes: int) -> int:
        return block(walks * images, *sizes)

    with mock.patch.object(triton_backend, "channel_block", chosen):
        yield


def count_shapes(names: list[str]) -> list[dict[str, Any]]:
    """Rows for the forward scan, as inference runs it, and the backward scan at ``names`` of `SHAPES`, for sm_90."""
    rows = []
    for name in names:
        tensors, settings = inputs(name)
        with torch.no_grad(), compiling("sm_90") as forward:
            scan_paths(**tensors, **settings, backend="triton")  # type: ignore[arg-type]
        few = {n: t if t is None else t[:1] if n in ("x", "x_dbl", "z") else t for n, t in tensors.items()}
        with compiling("sm_90") as backward, as_if(SHAPES[name][0]):
            leaves = {n: None if t is None else t.requires_grad_() for n, t in few.items()}
            out = scan_paths(**leaves, **settings, backend="triton")  # type: ignore[arg-type]
            out.backward(torch.empty_like(out))
        for made in (forward[0], next(made for made in backward if made.name == "scan_backward")):
            rows.append({"shape": name, **count(made)})
    return rows


if __name__ == "__main__":
    import triton
    from common import machine, table
    from sass_records import record

    counted = count_shapes(list(SHAPES))
    table(counted, ["shape", "kernel", "block_d", "slots", "mufu", "loads", "shuffles", "shared", "local"])
    record(
        "sass_triton",
        "Triton",
        triton.__version__,
        {"machine": machine(), "rows": counted},
        "sm_90, bfloat16: issue slots per (image, channel, step, direction) of the scan's loops over steps, counted in "
        "the disassembly; mamba_ssm 2.3's CUDA kernels, counted alike: 876 forward, 1796 backward (N 16), 131 (N 1). "
        "mufu to kinds: instructions of the longest loop, which does `steps` steps; local: of the whole kernel",
    )
