"""What NVRTC makes of the CUDA kernels, without a GPU: ``python benchmarks/sass_cuda.py``.

Like ``sass.py`` for Triton's kernels: the operators run on CPU tensors while each launch is only compiled, for the
sizes that a GPU would get. Records the counts for the NVRTC that runs in ``benchmarks/results/sass_cuda.json``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from sass import SHAPES, disassemble, inputs, operation, spans

from vimzoo.ops import scan_paths
from vimzoo.ops.runtime import cuda_backend, nvrtc
from vimzoo.ops.scan.call import CHUNK

TARGETS = ("sm_80", "sm_90", "sm_100")
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
"""Bytes of shared memory that a block of these may have."""
TILE = 8
"""Steps that the forward scan's loop unrolls, as ``cuda_scan.cu`` has it."""
LOADS, STORES = ("LD", "LDG"), ("ST", "STG")
Span = tuple[int, int]


@dataclass
class Compiled:
    """One kernel as NVRTC compiled it."""

    name: str
    constants: dict[str, int]
    code: bytes = field(repr=False)

    def instructions(self) -> list[tuple[int, str]]:
        """Address and text of every instruction."""
        return disassemble(self.code, self.name)

    @property
    def columns(self) -> int:
        """Of a row."""
        return self.constants["RANK"] + 2 * self.constants["STATES"]

    @property
    def steps(self) -> int:
        """That the innermost loops over steps unroll."""
        if self.name == "scan_forward":
            return TILE
        return 4 if self.constants["STATES"] > 8 else 8


@contextlib.contextmanager
def compiling(target: str) -> Iterator[list[Compiled]]:
    """Within the block the ``cuda`` backend takes CPU tensors, compiles for ``target`` and launches nothing.

    Yields:
        the list to which each kernel is added, once for its sizes. What operators return is uninitialised memory.
    """
    kernels: list[Compiled] = []

    def compile_only(source: str, name: str, constants: Mapping[str, int], *args: Any) -> None:
        if not any((name, constants) == (made.name, made.constants) for made in kernels):
            code = nvrtc.cubin(source, cuda_backend.sources(), target, constants)
            kernels.append(Compiled(name, dict(constants), code))

    with (
        mock.patch.object(cuda_backend, "launch", compile_only),
        mock.patch.object(cuda_backend, "require_device", lambda device: None),
        mock.patch.object(cuda_backend, "shared_limit", lambda device: SHARED[target]),
    ):
        yield kernels


def within(inner: Span, outer: Span) -> bool:
    """Whether a loop lies in another one."""
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def count(made: Compiled) -> dict[str, Any]:
    """Issue slots per (image, channel, step, direction), and of what kind the instructions of the step loops are."""
    instructions = made.instructions()
    code, found = [(at, operation(text)) for at, text in instructions], spans(instructions)
    slots, kinds = 0.0, Counter[str]()
    for span in found:
        own = [op for at, op in code if span[0] <= at <= span[1] and not any(
            within(inner, span) and inner[0] <= at <= inner[1] for inner in found)]  # fmt: skip
        share, over_steps = _share(made, span, own, found, code)
        slots += len(own) * share
        if over_steps:
            kinds.update({op: n * share for op, n in Counter(own).items()})
    everything = Counter(op for _, op in code)
    return {
        "kernel": made.name,
        "block": made.constants["BLOCK"],
        "slots": slots,
        "mufu": kinds["MUFU"],
        "shuffles": everything["SHFL"],
        "local": everything["LDL"] + everything["STL"],
        "kinds": {kind: round(n, 1) for kind, n in kinds.most_common(12)},
    }


def _share(
    made: Compiled, span: Span, own: list[str], found: list[Span], code: list[tuple[int, str]]
) -> tuple[float, bool]:
    """How often a loop's own instructions run per step of a thread, and whether it is a loop over steps.

    Loops with exponentials go over steps, unless they hold another such loop: then over chunks, or a tile's directions.
    Others move a chunk's rows, or a stretch's gradients: as many items at once as they load, or store.
    """
    exponentials = [s for s in found if any(op == "MUFU" for at, op in code if s[0] <= at <= s[1])]
    around = [outer for outer in exponentials if within(span, outer)]
    loads, stores = (sum(op in kind for op in own) for kind in (LOADS, STORES))
    states, rows = made.constants["STATES"], made.columns / made.constants["BLOCK"]
    if span not in exponentials:
        items = stores if len(around) > 1 else loads  # of a stretch in the sweep back, of a chunk before it
        return (rows / items, False) if around and items else (0.0, False)
    if made.name == "scan_tile":
        steps = made.constants["SPAN"]
        if any(within(inner, span) for inner in exponentials):
            return 1 / steps, False
        if not loads:  # what came before a chunk: half of the chunks on average
            chunks = made.constants["BLOCK"] / made.constants["LANES"]
            return chunks / 2 / steps * states / own.count("MUFU"), False
        return (1 + states) / own.count("MUFU"), True  # unrolled so often
    if any(within(inner, span) for inner in exponentials):
        return 1 / CHUNK, False
    return 1 / made.steps, True


def count_shapes(
    names: list[str], target: str = "sm_90", without_backward: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows for the forward scan, as inference runs it, and the backward scan at ``names`` of `sass.SHAPES`."""
    rows = []
    for name in names:
        tensors, settings = inputs(name)
        with torch.no_grad(), compiling(target) as forward:
            scan_paths(**tensors, **settings, backend="cuda")  # type: ignore[arg-type]
        rows.append({"shape": name, **count(forward[0])})
        if name in without_backward:
            continue
        few = {n: t if t is None else t[:1] if n in ("x", "x_dbl", "z") else t for n, t in tensors.items()}
        with compiling(target) as backward:
            leaves = {n: None if t is None else t.requires_grad_() for n, t in few.items()}
            out = scan_paths(**leaves, **settings, backend="cuda")  # type: ignore[arg-type]
            out.backward(torch.empty_like(out))
        made = next(made for made in backward if made.name == "scan_backward")
        rows.append({"shape": name, **count(made)})
    return rows


if __name__ == "__main__":
    from common import machine, table
    from sass_records import record

    counted = count_shapes(list(SHAPES))
    table(counted, ["shape", "kernel", "block", "slots", "mufu", "shuffles", "local"])
    record(
        "sass_cuda",
        "NVRTC",
        nvrtc.load()[1],
        {"machine": machine(), "rows": counted},
        "sm_90, bfloat16: issue slots per (image, channel, step, direction) of the scan's loops over steps and what "
        "they bring and take away, counted in the disassembly; mamba_ssm 2.3's CUDA kernels, counted alike: 876 "
        "forward, 1796 backward (N 16), 131 (N 1). mufu and kinds: per step of the loops over steps; shuffles and "
        "local: of the whole kernel",
    )
