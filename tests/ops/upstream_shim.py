"""pytest plugin for `test_upstream`: what state-spaces/mamba's own op tests need in order to run here, on the CPU.

Their module imports CUDA extensions that are not there. Stand-in modules take its place: the function under test is
ours, the oracle beside it is theirs, read out of the checkout that ``MAMBA_CLONE`` names. ``VIMZOO_SHIM_SCALE``
multiplies our output, to show that the tests can fail.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from vimzoo.ops import selective_scan

INTERFACE = "mamba_ssm.ops.selective_scan_interface"


def upstream_functions(clone: Path, *names: str) -> dict[str, Any]:
    """Top-level functions of upstream's interface module, without running the rest of it."""
    import einops

    path = clone.joinpath(*INTERFACE.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
    scope.update(rearrange=einops.rearrange, repeat=einops.repeat)
    exec(compile(tree, str(path), "exec"), scope)
    return {name: scope[name] for name in names}


def candidate(*args: Any, **kwargs: Any) -> Any:
    """Our op, its output scaled if the environment says so."""
    scale = float(os.environ.get("VIMZOO_SHIM_SCALE", "1"))
    result: Any = selective_scan(*args, **kwargs)
    if scale == 1:
        return result
    return (result[0] * scale, result[1]) if isinstance(result, tuple) else result * scale


def install(clone: Path) -> None:
    """Put the stand-ins where upstream's test module imports from."""
    interface = ModuleType(INTERFACE)
    oracle = upstream_functions(clone, "selective_scan_ref")["selective_scan_ref"]
    vars(interface).update(selective_scan_fn=candidate, selective_scan_ref=oracle)
    vars(interface).update(mamba_inner_fn=None, mamba_inner_ref=None)  # imported by name, not run
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules[INTERFACE] = interface


class CudaMeansCpu(TorchFunctionMode):
    """Factory calls that name a CUDA device get the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "cuda" in str(kwargs.get("device", "")):
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def on_cpu() -> Iterator[None]:
    """Every test of the run."""
    with CudaMeansCpu():
        yield


if "MAMBA_CLONE" in os.environ:
    install(Path(os.environ["MAMBA_CLONE"]))
