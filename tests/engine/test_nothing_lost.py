"""Kill, stop, spoil, starve: a run that goes on gives bitwise the weights of one that was never disturbed."""

import errno
import io
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from traceback import StackSummary
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from trainer_helpers import calling, same_tensors, small

from vimzoo.engine import Stopped, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.recover import PATIENCE
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

# Dropout, mixup, random numbers in a worker process, an average, and a schedule with a memory of its own
EVENTFUL = [
    "run.epochs=3", "model.drop_rate=0.5", "aug.mixup.mixup_alpha=0.2", "data.workers=1", "sched=constant",
    "sched.sched=plateau", "+sched.patience_epochs=0", "+sched.decay_rate=0.5", "sched.warmup_epochs=0",
    "sched.step_on_epochs=true",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def die_writing(number):
    """Kill this very process when it has written a checkpoint for the ``number``-th time, before it has a name."""
    checkpoint.verify = calling(number, lambda: os.kill(os.getpid(), signal.SIGKILL), checkpoint.verify)


@pytest.fixture
def at_step(monkeypatch):
    """Call something before the step of that number, once."""

    def install(number, action):
        monkeypatch.setattr(loop_module, "train_step", calling(number, action))

    return install


def outcome(folder, name="last.pt"):
    """What a run left in a checkpoint, but for the clock and the place."""
    content = checkpoint.read(folder / name)
    del content["config"]
    for row in content["history"]:
        del row["seconds"], row["images_per_s"]
    return content


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "prediction_sheet", lambda *_: None)
        patch.setattr(report, "curves", lambda *_: None)
        launch(small(*EVENTFUL), out)
    return outcome(out)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler")
def test_killed_in_the_middle_of_an_epoch(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL, which no program can catch, amid the save after step 5, while step 6 or its epoch's end is under way."""
    out, cfg = tmp_path / "run", small(*EVENTFUL, "run.save_every.steps=1", "resume=auto")
    program = (
        "from test_nothing_lost import Path, die_writing, launch\n"
        f"die_writing(6)\nlaunch({cfg!r}, Path({str(out)!r}))"
    )
    victim = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, timeout=120)
    assert victim.returncode == -signal.SIGKILL
    left = checkpoint.read(out / "last.pt")
    assert (left["epoch"], left["batch"], left["step"]) == (1, 1, 4)
    launch(cfg, out)
    assert same_tensors(outcome(out), undisturbed)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(
    number: int, undisturbed: dict[str, Any], tmp_path: Path, at_step: Any
) -> None:
    handler = signal.getsignal(number)
    at_step(5, lambda: os.kill(os.getpid(), number))
    with pytest.raises(
        Stopped, match=rf"{number.name} after step 5 \(epoch 2, batch 2\); continue with resume="
    ):
        launch(small(*EVENTFUL), tmp_path / "stopped")
    assert signal.getsignal(number) is handler
    at_step(0, None)
    launch(small(*EVENTFUL, f"resume={tmp_path / 'stopped/last.pt'}"), tmp_path / "resumed")
    assert same_tensors(outcome(tmp_path / "resumed"), undisturbed)


def test_half_precision_resumes_with_its_scale(tmp_path: Path, at_step: Any) -> None:
    options = ["run.epochs=2", "run.amp=fp16", "data.batch_size=4"]
    launch(small(*options), tmp_path / "whole")
    at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        launch(small(*options), tmp_path / "stopped")
    at_step(0, None)
    launch(small(*options, f"resume={tmp_path / 'stopped/last.pt'}"), tmp_path / "resumed")
    whole = outcome(tmp_path / "whole")
    assert same_tensors(outcome(tmp_path / "resumed"), whole)
    assert whole["scaler"]["scale"] != torch.amp.GradScaler("cpu").get_scale()  # it has had to move


def test_a_damaged_checkpoint_falls_back_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(small("run.epochs=2"), tmp_path / "whole")
    folder = tmp_path / "whole"
    expected = outcome(folder)
    content = bytearray((folder / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1  # one bit, amid the weights
    (folder / "last.pt").write_bytes(content)
    launch(small("run.epochs=2", f"resume={folder / 'last.pt'}"), tmp_path / "resumed")
    assert "checksum" in (said := capsys.readouterr().err) and "resuming from" in said and "step 3" in said
    assert same_tensors(outcome(tmp_path / "resumed"), expected)
    (folder / "previous.pt").unlink()
    with pytest.raises(UsageError, match=r"last.pt: not a readable checkpoint \(the checksum of"):
        launch(small("run.epochs=2", f"resume={folder / 'last.pt'}"), tmp_path / "none")


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path, at_step: Any) -> None:
    """A limit on the size of files fails the write as a full disk does: half-way, by the system."""
    launch(small("run.epochs=2"), tmp_path / "whole")
    out, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    at_step(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1])))
    try:
        with pytest.raises(OSError, match=r"last.pt: cannot be written .*the checkpoint before it is whole"):
            launch(small("run.epochs=2", "run.save_every.steps=1"), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    step = checkpoint.read(out / "last.pt")["step"]
    assert step in (3, 4) and not list(out.glob("*.tmp"))  # that of step 4 may still have been under way
    at_step(0, None)
    launch(small("run.epochs=2", "resume=auto"), out)
    assert same_tensors(outcome(out), outcome(tmp_path / "whole"))


def test_the_best_is_kept_before_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between the two would otherwise go on from the last without ever having had its best."""

    class Killed(BaseException):
        pass

    def replace(source, target, real=os.replace):
        if Path(target).name == "last.pt":
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        launch(small(), tmp_path)
    assert checkpoint.read(tmp_path / "best.pt")["epoch"] == 1 and not (tmp_path / "last.pt").exists()


def test_a_full_disk_is_said_where_torch_hides_it(tmp_path: Path) -> None:
    """torch closes its file after the failure, and reports that the end is not where it should be."""

    class Full(io.BytesIO):
        def write(self, content):
            if self.tell() > 1000:
                raise OSError(28, "No space left on device")
            return super().write(content)

    with pytest.raises(RuntimeError) as caught:
        torch.save({"weight": torch.zeros(10_000)}, Full())
    said = str(checkpoint.cannot_write(tmp_path / "last.pt", caught.value))
    assert said == f"{tmp_path / 'last.pt'}: cannot be written (No space left on device)"
    (tmp_path / "last.pt").touch()
    assert "is whole" in str(checkpoint.cannot_write(tmp_path / "last.pt", caught.value))


def test_a_sharded_checkpoint_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process has a reason, whose own cause is lost on the way to the others."""
    full = CheckpointException(
        "write", {1: (OSError(errno.ENOSPC, "No space left on device"), StackSummary())}
    )
    said = str(checkpoint.cannot_write(tmp_path / "last.dcp", full))
    assert said == f"{tmp_path / 'last.dcp'}: cannot be written (No space left on device)"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=42))
    cut = CheckpointException(
        "write", {0: (RuntimeError("[enforce fail] unexpected pos 704 vs 598"), StackSummary())}
    )
    said = str(checkpoint.cannot_write(tmp_path / "last.dcp", cut))
    assert said.endswith("([enforce fail] unexpected pos 704 vs 598; 42 bytes are free on that disk)")


def test_some_epoch_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no score is a number, as after an evaluation that overflowed."""
    monkeypatch.setattr(
        classification.Scores, "summary", lambda _: dict.fromkeys(["loss", "top1", "top5"], math.nan)
    )
    launch(small(), tmp_path)
    assert checkpoint.read(tmp_path / "best.pt")["epoch"] == 1


def test_in_the_middle_of_an_epoch_the_batches_must_stay(tmp_path: Path, at_step: Any) -> None:
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        launch(small(), tmp_path)
    resume = f"resume={tmp_path / 'last.pt'}"
    with pytest.raises(UsageError, match=r"in the middle of epoch 1, which needs data.batch_size=32, not 16"):
        launch(small("data.batch_size=16", resume), tmp_path / "out")


def spoil(monkeypatch, *steps):
    """Make the loss of some steps, and so its gradient, not a number."""
    real = loop_module.backpropagate

    def backpropagate(state, images, targets):
        return real(state, images * float("nan") if state.step + 1 in steps else images, targets)

    monkeypatch.setattr(loop_module, "backpropagate", backpropagate)


@pytest.mark.parametrize("amp", ["none", "fp16"])
def test_a_spoilt_update_is_skipped(
    amp: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, 2)
    launch(small("run.on_nonfinite=skip", f"run.amp={amp}", "data.batch_size=8"), tmp_path)
    assert "the training loss is nan at step 2 (epoch 1): left out (1 in a row)" in capsys.readouterr().err
    content = checkpoint.read(tmp_path / "last.pt")
    assert content["step"] == 3 and content["nonfinite"] == 0
    assert all(torch.isfinite(value).all() for value in content["model"].values())
    assert content["optimizer"]["state"][0]["step"] == {"none": 2, "fp16": 1}[amp]  # one more overflows there
    assert 0 < content["history"][0]["train_loss"] < 10


def test_rollback_takes_the_weights_of_the_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, 3)
    launch(small("run.on_nonfinite=rollback", "run.save_every.steps=2"), tmp_path)
    assert "at step 3 (epoch 1): left out, weights of step 2" in capsys.readouterr().err
    assert checkpoint.read(tmp_path / "previous.pt")["step"] == 2
    content = checkpoint.read(tmp_path / "last.pt")
    assert content["step"] == 3 and content["optimizer"]["state"][0]["step"] == 2


def test_too_many_spoilt_updates_stop_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoil(monkeypatch, *range(1, 100))
    with pytest.raises(FloatingPointError, match=f"nan at step {PATIENCE + 1} "):
        launch(small("run.on_nonfinite=skip", "run.limit_batches=30"), tmp_path)


def test_a_spoilt_gradient_does_not_reach_the_weights() -> None:
    state = build_state(small(), build_data(small()), 3)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    next(state.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    images, labels = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    with pytest.raises(FloatingPointError, match=r"gradient's norm is (nan|inf) at step 1"):
        loop_module.train_step(state, images, labels)
    assert same_tensors(before, dict(state.model.named_parameters()))


def test_half_precision_does_not_lower_its_scale_without_end() -> None:
    """What overflows with the smallest scale is not the scale's doing."""
    state = build_state(cfg := small("run.amp=fp16"), build_data(cfg), 3)
    next(state.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    images, labels = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    with pytest.raises(FloatingPointError, match=r"gradient's norm is (nan|inf) at step 17"):
        for _ in range(20):
            loop_module.train_step(state, images, labels)
    assert state.scaler.get_scale() < 1


class Hungry(nn.Module):
    """Runs out of memory with more than ``limit`` images."""

    def __init__(self, model, limit):
        super().__init__()
        self.model, self.limit = model, limit

    def forward(self, x):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.model(x)


def test_out_of_memory_halves_the_micro_batch(capsys: pytest.CaptureFixture[str]) -> None:
    """The update is bitwise that of a run told to accumulate, and to rounding that of the whole batch."""
    images, labels = torch.rand(32, 1, 16, 16), torch.arange(32) % 10
    weights = {}
    for accumulate, limit in ((1, 32), (4, 8), (1, 8)):
        cfg = small(
            "model.model_name=test_vit", "data.img_size=16", f"run.accumulate={accumulate}", "optim=sgd"
        )
        torch.manual_seed(0)
        state = build_state(cfg, build_data(cfg), 3)
        state.forward = Hungry(state.model, limit)
        loop_module.train_step(state, images, labels)
        weights[accumulate, limit] = dict(state.model.named_parameters())
    assert state.accumulate == 4
    said = capsys.readouterr().out
    assert "out of memory at step 1 with micro-batches of 32: from here 2 of 16, the batch stays 32" in said
    assert same_tensors(weights[4, 8], weights[1, 8])
    for name, value in weights[1, 32].items():
        torch.testing.assert_close(weights[1, 8][name], value, rtol=1e-5, atol=1e-7)


def test_one_image_too_large_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    state = build_state(small(), build_data(small()), 3)
    state.forward = Hungry(state.model, 0)
    with pytest.raises(UsageError, match="micro-batches of 1: the model and one image do not fit"):
        loop_module.train_step(state, torch.rand(4, 1, 8, 8), torch.arange(4))


class Putting(nn.Module):
    """Uses an operation without a deterministic form."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))

    def forward(self, x):
        x.new_zeros(4).put_(torch.tensor([1]), torch.ones(1))
        return self.weight.expand(len(x), -1)


def test_deterministic_names_what_forbids_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch(small("deterministic=true"), tmp_path / "fine")
    monkeypatch.setattr("vimzoo.engine.tasks.classification.create_model", lambda _: Putting())
    launch(small(), tmp_path / "allowed")
    with pytest.raises(
        UsageError, match="deterministic=true: put_ does not have a deterministic implementation"
    ):
        launch(small("deterministic=true"), tmp_path / "refused")
    assert not torch.are_deterministic_algorithms_enabled()
