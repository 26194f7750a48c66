"""``run.compile=true`` with the other options of a step, against the same run without."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from trainer_helpers import composed, same_tensors

from vimzoo.engine import launch
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.reports import report
from vimzoo.engine.running import work
from vimzoo.engine.tasks import classification
from vimzoo.eval import evaluation

ROUNDING = 256 * 2.0**-24  # sums of up to 256 terms in another order, the width of the model's inner layers
BRIEF = [
    "run.epochs=2",
    "run.limit_batches=3",
    "run.device=cpu",
    "data.batch_size=16",
    "sched.warmup_epochs=0",
]
THRIFTY = ["run.accumulate=2", "run.grad_checkpointing=true"]


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    torch._dynamo.reset()
    counters.clear()


def losses(folder):
    rows = json.loads((folder / "metrics.json").read_text())["epochs"]
    return [row[name] for row in rows for name in ("train_loss", "val_loss")]


@pytest.mark.parametrize("options", [[], [*THRIFTY, "model.drop_path_rate=0.2"]], ids=["plain", "thrifty"])
def test_a_traced_step_learns_the_same(options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced forward and backward, run as they are: without the minute of a compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    words = ["model.depth=2", *BRIEF, *options]
    launch(composed(*words), tmp_path / "plain")
    launch(composed(*words, "run.compile=true"), tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [([], ROUNDING), (THRIFTY, ROUNDING), (["run.amp=bf16"], 2.0**-8)],
    ids=["plain", "thrifty", "bf16"],
)
def test_a_compiled_run_learns_the_same_and_resumes(options: Any, tolerance: Any, tmp_path: Path) -> None:
    """By the compiler of the user's machine, which keeps some numbers in float32 that bfloat16 rounds to 2^-8."""
    words = [*BRIEF, *options]
    launch(composed(*words), tmp_path / "plain")
    launch(composed(*words, "run.compile=true"), tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 1
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=tolerance)
    shutil.copytree(tmp_path / "compiled", tmp_path / "first")
    resume = f"resume={tmp_path / 'first/previous.pt'}"
    launch(composed(*words, "run.compile=true", resume), tmp_path / "resumed")
    weights = [load_file(tmp_path / name / "model/model.safetensors") for name in ("compiled", "resumed")]
    assert same_tensors(*weights)
    numbers = evaluation([str(tmp_path / "compiled"), BRIEF[1]], out=tmp_path / "eval")  # of the same images
    said = json.loads((tmp_path / "compiled/metrics.json").read_text())["test"]
    assert numbers["loss"] == pytest.approx(said["loss"]) and numbers["top1"] == said["top1"]


def both_kinds(_, out, overrides, world):
    """What two processes do."""
    classification.prediction_sheet = report.curves = lambda *_: None
    for kind in ("ddp", "fsdp"):
        words = [*BRIEF, "devices=2", f"run.parallel={kind}", "run.accumulate=2", "run.compile=true"]
        work(composed(*words), out / kind, overrides, world)
    return 0.0


@pytest.mark.slow
def test_compiled_processes_learn_what_one_learns(tmp_path: Path) -> None:
    launch(composed(*BRIEF), tmp_path / "plain")
    spawn(both_kinds, composed(*BRIEF, "devices=2"), tmp_path, [])
    for kind in ("ddp", "fsdp"):
        assert losses(tmp_path / kind) == pytest.approx(losses(tmp_path / "plain"), rel=ROUNDING)
