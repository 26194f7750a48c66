"""Several processes equal one; sharded checkpoints; what a finished run hands on."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from trainer_helpers import same_tensors, small

from vimzoo.data import EpochBatches, bundled_digits, eval_loader
from vimzoo.engine import launch
from vimzoo.engine.build import build_data, build_state, set_grad_checkpointing
from vimzoo.engine.checkpoints import checkpoint, conversion, forms, resume
from vimzoo.engine.checkpoints.saver import Saver
from vimzoo.engine.processes import parallel
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.recover import OutOfMemory
from vimzoo.engine.reports import report
from vimzoo.engine.running import work
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError
from vimzoo.eval import evaluation

# No batch norm and no random numbers, whose draws differ between processes
PLAIN = [
    "model.model_name=test_vit",
    "data.img_size=16",
    "run.epochs=2",
    "run.ema.decay=0.5",
    "run.accumulate=2",
]


def rows(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())["epochs"]


def all_kinds(cfg, out, overrides, world):
    """What both processes do: DDP, FSDP2, and each of them from the checkpoint of the first epoch of either."""
    classification.prediction_sheet = report.curves = lambda *_: None
    fsdp = {**cfg, "run": {**cfg["run"], "parallel": "fsdp"}}
    work(small("data.img_size=32", "run.ema=null"), out / "norms", overrides, world)
    work(cfg, out / "ddp", overrides, world)
    work(fsdp, out / "fsdp", overrides, world)
    work({**fsdp, "resume": str(out / "fsdp/previous.dcp")}, out / "resumed", overrides, world)
    if world.main:
        (out / "switched").mkdir()
        shutil.copytree(out / "fsdp/previous.dcp", out / "switched/last.dcp")
    else:  # as on a machine with a disk of its own
        checkpoint.read, form_of = None, forms.of
        forms.of = lambda path: replace(form_of(path), read=None)
    work({**cfg, "resume": "auto"}, out / "switched", overrides, world)
    work({**fsdp, "resume": str(out / "ddp/previous.pt")}, out / "from_ddp", overrides, world)
    there_and_back(cfg, fsdp, out, world)
    return 0.0


def there_and_back(cfg, fsdp, out, world):
    """Write what DDP has written once more, after FSDP has taken it over."""
    data = build_data(cfg)
    (out / "there").mkdir(exist_ok=True)
    parts, whole = (build_state(words, data, 3, world) for words in (fsdp, cfg))
    for state, source in ((parts, out / "ddp/last.pt"), (whole, out / "there/last.dcp")):
        content = resume.load(state, source)
        for name in checkpoint.COUNTERS:
            setattr(state, name, content[name])
        Saver(out / "there", cfg).save(state)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training in one process and in two; the folder of all."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "prediction_sheet", lambda *_: None)
        patch.setattr(report, "curves", lambda *_: None)
        launch(small(*PLAIN), out / "one")
    spawn(all_kinds, small(*PLAIN, "devices=2"), out, [])
    return out


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one(kind: str, runs: Path) -> None:
    for one, two in zip(rows(runs / "one"), rows(runs / kind), strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-6)
        assert one["val_loss"] == pytest.approx(two["val_loss"], abs=1e-6)
        assert one["val_top1"] == two["val_top1"] and one["step"] == two["step"]
    one, two = (load_file(runs / name / "model/model.safetensors") for name in ("one", kind))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-5)


def test_batch_norms_are_evaluated_as_they_are_saved(runs: Path) -> None:
    numbers = evaluation([str(runs / "norms"), "run.limit_batches=3"], "val", runs / "norms/eval")
    (row,) = rows(runs / "norms")
    assert numbers["loss"] == pytest.approx(row["val_loss"], abs=1e-6) and numbers["top1"] == row["val_top1"]


def test_a_sharded_run_resumes_bitwise(runs: Path) -> None:
    whole, resumed = (load_file(runs / name / "model/model.safetensors") for name in ("fsdp", "resumed"))
    assert same_tensors(whole, resumed)
    assert [row["train_loss"] for row in rows(runs / "fsdp")] == [
        row["train_loss"] for row in rows(runs / "resumed")
    ]


@pytest.mark.parametrize(
    ("kind", "other"), [("switched/last.pt", "ddp/last.pt"), ("from_ddp/last.dcp", "fsdp/last.dcp")]
)
def test_a_run_goes_on_in_the_other_form(kind: str, other: Any, runs: Path) -> None:
    """DDP from a checkpoint in parts, FSDP from a file: weights, average, moments, counters to rounding."""
    found, wanted = (read(runs / name) for name in (kind, other))
    for name in ("model", "model_ema", "optimizer"):
        close(found[name], wanted[name])
    assert found["step"] == wanted["step"] == 6 and found["epoch"] == 2
    assert [row["train_loss"] for row in found["history"]] == pytest.approx(
        [row["train_loss"] for row in wanted["history"]], abs=1e-6
    )


def test_a_change_of_form_is_lossless(runs: Path) -> None:
    there, back = conversion.read(runs / "there/previous.dcp"), checkpoint.read(runs / "there/last.pt")
    before = checkpoint.read(runs / "ddp/last.pt")
    for name in ("model", "model_ema", "optimizer", "step", "history", "sizes", "scaler", "ema_rounding"):
        assert same_tensors(before[name], back[name]) and same_tensors(before[name], there[name])


def test_a_change_of_form_replaces_the_other_form(runs: Path) -> None:
    names = {path.name for path in (runs / "switched").iterdir()}
    assert names & {"last.pt", "last.dcp", "previous.pt", "previous.dcp"} == {"last.pt", "previous.dcp"}


def test_torch_makes_a_checkpoint_in_parts_one_file_for_timm(runs: Path, tmp_path: Path) -> None:
    """The command of the document on training."""
    words = [sys.executable, "-m", "torch.distributed.checkpoint.format_utils", "dcp_to_torch"]
    subprocess.run([*words, str(runs / "fsdp/last.dcp"), str(tmp_path / "whole.pt")], check=True)
    content = conversion.read(runs / "fsdp/last.dcp")
    model = timm.create_model("test_vit", img_size=16, in_chans=1, num_classes=10)
    timm.models.load_checkpoint(model, str(tmp_path / "whole.pt"))
    assert same_tensors(dict(model.state_dict()), content["model_ema"])


def read(path):
    return conversion.read(path) if path.is_dir() else checkpoint.read(path)


def close(found, wanted):
    """The same names, and tensors to what two processes differ from one by."""
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-5)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            close(found[name], wanted[name])
    elif isinstance(wanted, list):
        for pair in zip(found, wanted, strict=True):
            close(*pair)
    else:
        assert found == wanted


def test_each_process_wrote_its_part(runs: Path) -> None:
    assert {path.name for path in (runs / "fsdp/last.dcp").iterdir()} >= {"__0_0.distcp", "__1_0.distcp"}


def test_a_sharded_checkpoint_goes_on_in_one_process(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here from the one before, because a part of the last has lost its end."""
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    part = runs / "fsdp/last.dcp/__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    launch(small(*PLAIN, f"resume={runs / 'fsdp/last.dcp'}"), tmp_path)
    assert (
        "the checksum of __1_0.distcp is wrong" in (said := capsys.readouterr().err)
        and "previous.dcp, step 3" in said
    )
    assert rows(tmp_path)[1]["train_loss"] == pytest.approx(rows(runs / "one")[1]["train_loss"], abs=1e-6)


def test_a_finished_model_is_read_by_timm(runs: Path) -> None:
    folder = runs / "one/model"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    best = checkpoint.read(runs / "one/best.pt")["model_ema"]
    assert same_tensors(dict(model.state_dict()), dict(best))
    cfg, data = model.pretrained_cfg, bundled_digits(img_size=16)
    assert tuple(cfg["label_names"]) == data.classes and tuple(cfg["input_size"]) == data.input_size
    assert tuple(cfg["mean"]) == pytest.approx(data.mean) and tuple(cfg["std"]) == pytest.approx(data.std)


def test_processes_share_every_batch_and_every_image() -> None:
    whole = list(EpochBatches(50, 12, seed=3))
    parts = [list(EpochBatches(50, 12, seed=3, rank=rank, world=3)) for rank in range(3)]
    assert [[*chain(*step)] for step in zip(*parts, strict=True)] == whole and len(parts[0][0]) == 4
    images = torch.arange(11)
    seen = [batch.tolist() for rank in range(4) for batch in eval_loader(images, 2, 0, None, rank, 4)]
    assert [*chain(*seen)] == list(range(11))
    with pytest.raises(UsageError, match=r"`batch_size`=10 of 50 images: expected a multiple of `world`=4"):
        EpochBatches(50, 10, seed=3, rank=0, world=4)
    few = [list(eval_loader(images[:3], 2, 0, None, rank, 4)) for rank in range(4)]
    assert sorted(map(len, few)) == [0, 1, 1, 1]  # one process has nothing to do


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.stages = nn.Sequential(*(nn.Sequential(Block(), Block()) for _ in range(2)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2))


def test_repeated_blocks_are_sharded_inner_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(parallel, "fully_shard", lambda module: order.append(type(module).__name__))
    parallel.shard(Blocks())
    assert order == ["Block"] * 4 + ["Sequential"] * 2 + ["Blocks"]


def test_impossible_processes_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"devices=0: expected a whole number, at least 1"):
        launch(small("devices=0"), tmp_path / "out")
    with pytest.raises(UsageError, match=r"run.parallel=tensor: expected one of ddp, fsdp"):
        launch(small("run.parallel=tensor"), tmp_path / "out")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UsageError, match="RANK=1 is set without WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        launch(small(), tmp_path / "out")


@pytest.mark.parametrize("option", ["run.grad_checkpointing=true", "run.amp=bf16"])
def test_options_run_and_learn_the_same(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpointing and half precision change the numbers little or not at all."""
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    short = [*PLAIN, "run.epochs=1", "run.limit_batches=2"]
    launch(small(*short), tmp_path / "plain")
    launch(small(*short, option), tmp_path / "other")
    loss, other = (rows(tmp_path / name)[0]["train_loss"] for name in ("plain", "other"))
    assert other == pytest.approx(loss, rel=2e-2 if "bf16" in option else 1e-6)


@pytest.mark.parametrize("name", ["test_vim", "test_vmamba", "test_mambair"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    images, gradients = torch.rand(2, 3, 32, 32), []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = timm.create_model(name, **({} if name == "test_mambair" else {"img_size": 32})).train()
        if recompute:
            set_grad_checkpointing(model)
        model(images).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert same_tensors(*gradients)


def test_a_model_without_checkpointing_is_named() -> None:
    with pytest.raises(UsageError, match=r"run.grad_checkpointing=true: Blocks has no such mode"):
        set_grad_checkpointing(Blocks())


def starve(cfg, out, overrides, world):
    """Out of memory in the second process until there are four micro-batches."""
    if cfg["run"]["accumulate"] < 4:
        if world.rank == 1:
            raise OutOfMemory("out of memory at step 7")
        world.wait()  # for a process that never comes
    return float(cfg["run"]["accumulate"])


@pytest.mark.slow
def test_processes_start_again_with_more_micro_batches(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert spawn(starve, small("devices=2"), tmp_path, []) == 4.0
    assert "all processes start again with run.accumulate=4" in capfd.readouterr().err


QUICK = [
    "model=timm", "model.model_name=test_vit", "data.batch_size=16", "run.device=cpu", "run.limit_batches=2",
]  # fmt: skip
TRAIN = Path(__file__).resolve().parents[2] / "train.py"


@pytest.mark.slow
def test_torchrun_starts_the_same_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(TRAIN)]
    # Folders of two names, as processes have that begin in different seconds
    words += [*QUICK, "run.epochs=1", "hydra.run.dir=outputs/now/${oc.env:LOCAL_RANK}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("test accuracy") for line in done.stdout.splitlines()) == 1
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert json.loads((folder / "about.json").read_text())["machine"]["processes"] == 2


@pytest.mark.slow
def test_a_signal_to_the_parent_saves_and_stops_all(tmp_path: Path) -> None:
    words = [sys.executable, str(TRAIN), *QUICK, "run.epochs=1000", "devices=2", "hydra.run.dir=out"]
    run = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out/metrics.csv").exists():
        assert run.poll() is None
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM and "continue with resume=" in said
    assert checkpoint.read(tmp_path / "out/last.pt")["step"] > 1
