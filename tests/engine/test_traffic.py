"""Bytes that training sends between processes, as docs/scaling.md counts them."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from vimzoo.engine.processes.parallel import shard

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    """``benchmarks/scaling.py``."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scaling")


def test_the_kernel_counts_what_the_formulas_say(scaling: Any) -> None:
    """Above them are headers, the loss and the gradient norm; one exchange of weights more or less is 30 %."""
    ddp, fsdp = scaling.measured_traffic("test_vim", processes=2, side=32)
    assert ddp["parallel"] == "ddp" and fsdp["formula_mb"] > 1.8 * ddp["formula_mb"]
    for row in (ddp, fsdp):
        assert row["formula_mb"] < row["sent_mb"] < 1.03 * row["formula_mb"]


@pytest.mark.parametrize("processes", [3, 1024])
def test_parts_are_padded_as_torch_does(processes: Any, scaling: Any) -> None:
    """The first of many processes, none of which runs, has a part of the size that all of them send."""
    model = timm.create_model("test_vmamba")
    counted = sum(scaling.unit_bytes(model, processes))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        shard(model)
        parts = [p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor)]
    finally:
        dist.destroy_process_group()
    assert len(parts) == len(list(model.parameters()))
    assert counted == scaling.NUMBER * processes * sum(parts)
    assert counted > scaling.gradient_bytes(model)


def test_the_record_is_of_the_models_of_today(scaling: Any) -> None:
    record = json.loads((BENCHMARKS / "results" / "scaling_models.json").read_text())
    rows = {row["model"]: row for row in record["rows"]}
    assert tuple(rows) == scaling.MODELS
    for name in ("vim_tiny_patch16_224", "vmamba_tiny_s1l8", "mambairv2_light_x2"):
        assert rows[name] == scaling.arithmetic(name)
