"""One run from configuration to files; repeat, resume, failures."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset
from trainer_helpers import Constant, composed, same_tensors, small

from vimzoo.data import Splits
from vimzoo.engine import evaluate, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.engine.tasks.classification import Scores, choose, prediction_sheet
from vimzoo.errors import UsageError

FILES = [
    "about.json", "best.pt", "config.yaml", "curves.png", "last.pt", "metrics.csv", "metrics.json",
    "model", "predictions.png", "previous.pt",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs, and its folder."""
    out = tmp_path_factory.mktemp("run")
    launch(small("run.epochs=2", "aug.mixup.mixup_alpha=0.2"), out)
    return out


@pytest.fixture(autouse=True)
def no_pictures(finished, monkeypatch):
    """Drawing takes longer than these runs; the module's shared run has drawn its own."""
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def test_a_run_leaves_its_files(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == FILES
    rows = list(csv.DictReader((finished / "metrics.csv").open()))
    results = json.loads((finished / "metrics.json").read_text())
    assert [int(row["epoch"]) for row in rows] == [1, 2] == [row["epoch"] for row in results["epochs"]]
    assert set(results["test"]) == {"loss", "top1", "top5"} and results["config"]["run"]["epochs"] == 2


def test_checkpoints_are_plain(finished: Path) -> None:
    content = torch.load(finished / "last.pt", weights_only=True)
    assert content["epoch"] == 2 and content["step"] == 6 and content["config"]["run"]["seed"] == 0
    model = timm.create_model(
        "test_resnet", in_chans=1, num_classes=10, checkpoint_path=str(finished / "last.pt")
    )
    assert same_tensors(dict(model.state_dict()), dict(content["model_ema"]))


def test_same_seed_same_weights(finished: Path, tmp_path: Path) -> None:
    words = ["run.epochs=2", "aug.mixup.mixup_alpha=0.2"]
    launch(small(*words), tmp_path / "same")
    launch(small(*words, "run.seed=1"), tmp_path / "other")
    one, two, other = (
        checkpoint.read(folder / "last.pt") for folder in (finished, tmp_path / "same", tmp_path / "other")
    )
    assert all(same_tensors(one[key], two[key]) for key in ("model", "model_ema", "optimizer"))
    assert not same_tensors(one["model"], other["model"])


def test_resumed_equals_uninterrupted(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    cfg = small("run.epochs=2", "aug.mixup.mixup_alpha=0.2")
    steps = []

    def step_then_die(*args):
        steps.append(1)
        if len(steps) == 5:  # in the middle of the second epoch
            raise Killed
        return real_step(*args)

    real_step = loop_module.train_step
    monkeypatch.setattr(loop_module, "train_step", step_then_die)
    with pytest.raises(Killed):
        launch(cfg, tmp_path / "killed")
    monkeypatch.undo()
    launch({**cfg, "resume": str(tmp_path / "killed/last.pt")}, tmp_path / "resumed")
    one, two = (checkpoint.read(folder / "last.pt") for folder in (finished, tmp_path / "resumed"))
    assert all(same_tensors(one[key], two[key]) for key in ("model", "model_ema", "optimizer"))
    assert [row["train_loss"] for row in one["history"]] == [row["train_loss"] for row in two["history"]]


def test_a_resumed_run_keeps_the_earlier_best(finished: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    content = checkpoint.read(old / "last.pt")
    torch.save({**content, "best": 100.5}, old / "last.pt")  # out of reach
    launch(small("run.epochs=3", f"resume={old / 'last.pt'}"), tmp_path / "new")
    assert same_tensors(checkpoint.read(tmp_path / "new/best.pt"), checkpoint.read(old / "best.pt"))


@pytest.mark.parametrize(
    "option", ["run.ema=null", "run.amp=bf16", "sched=constant", "optim=sgd", "loss=bce"]
)
def test_options_run(option: str, tmp_path: Path) -> None:
    # Convolutions of maps of one pixel give NaN gradients in bfloat16 on the CPU (torch 2.15), so no test_resnet
    launch(small("model.model_name=test_vit", "data.img_size=16", option, "run.limit_batches=1"), tmp_path)
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 1


def test_default_model_learns_one_step(tmp_path: Path) -> None:
    launch(composed("run.epochs=1", "run.limit_batches=1", "data.batch_size=8", "run.device=cpu"), tmp_path)
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 1


def test_image_folder_trains(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = composed(
        "model=timm", "model.model_name=test_vit", "data=folder", f"data.root={images}", "data.img_size=32",
        "data.workers=0", "run.epochs=1", "data.batch_size=8", "run.device=cpu", "aug=imagenet",
    )  # fmt: skip
    launch(cfg, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"best.pt", "last.pt", "metrics.json"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy ")


def test_non_finite_loss_names_the_step() -> None:
    cfg = small()
    data = build_data(cfg)
    state = build_state(cfg, data, 3)
    images, labels = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    loop_module.train_step(state, images, labels)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"training loss is nan at step 2 \(epoch 1\)"):
        loop_module.train_step(state, images * float("nan"), labels)
    assert same_tensors(before, dict(state.model.named_parameters())) and state.step == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_classes=7"], "model.num_classes=7, but the data .* have 10 classes"),
        (["optim.lr=fast"], "optim.lr=fast: expected a number"),
        (["model.model_name=resnet81"], "resnet81: no such model; similar names: .*resnet18"),
        (["+model.no_such=1"], "model .*no_such"),
        (["run.amp=bf17"], "run.amp=bf17: expected one of none, bf16, fp16"),
        (["run.device=tpu9"], "run.device=tpu9: .*expected auto, cpu"),
        (["run.epochs=0"], "run.epochs=0: expected a whole number, at least 1"),
        (["sched.num_epochs=3"], "run.epochs=1, but sched .* lasts 3"),
        (["data.batch_size=0"], "data.batch_size=0: expected a whole number, at least 1"),
        (["data.batch_size=31", "aug.mixup.mixup_alpha=1"], "data.batch_size=31: mixup .*not 31"),
        (["data.batch_size=9999", "aug.mixup.mixup_alpha=1"], "data.batch_size=9999: mixup .*not 1259"),
        (["aug.mixup.label_smoothing=2"], "aug.mixup .*label_smoothing"),
        (["run.epochs=1.5"], "run.epochs=1.5: expected a whole number, at least 1"),
        (["run.seed=-1"], "run.seed=-1: expected a whole number, at least 0"),
        (["run.limit_batches=0"], "run.limit_batches=0: expected null or a whole number, at least 1"),
        (["data.workers=-1"], "data.workers=-1: expected null or a whole number, at least 0"),
        (["run.clip_grad=0"], "run.clip_grad=0: expected null or a number above 0"),
        (["run.save_every=5"], "run.save_every=5: expected null, or one of its keys"),
        (["run.save_every.steps=0"], "run.save_every.steps=0: expected null or a whole number, at least 1"),
        (["run.compile=maybe"], "run.compile=maybe: expected true or false"),
        (["+run.ema.nonsense=1"], "run.ema .*nonsense"),
        (["data.val_fraction=0"], "data.val_fraction=0, .*expected shares below 1"),
        (["loss=l1"], "loss=l1: task=classify takes cross_entropy or bce"),
        (["task=juggle"], "task=juggle: expected one of classify"),
        (["data.source=tape"], "data.source=tape: expected one of .*digits, folder"),
        (["optim.opt=adamw5"], "optim .*adamw5"),
        (["resume=nowhere.pt"], "resume=nowhere.pt: no such file"),
    ],
)
def test_impossible_requests_are_named_before_any_work(overrides: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        launch(small(*overrides), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_overwritten_by_another(finished: Path, tmp_path: Path) -> None:
    for words in ((), (f"resume={tmp_path / 'elsewhere/last.pt'}",)):
        with pytest.raises(UsageError, match=r"holds a run already \(last.pt\); expected resume=auto"):
            launch(small(*words), finished)
    with pytest.raises(UsageError, match=r"resume=.*: no checkpoint in that folder"):
        launch(small(f"resume={tmp_path}"), tmp_path / "out")


def test_a_run_ended_after_its_last_epoch_finishes(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "model")
    launch(small("run.epochs=2", "aug.mixup.mixup_alpha=0.2", "resume=auto"), folder)
    after = json.loads((folder / "metrics.json").read_text())
    assert after["test"] == before["test"] and after["epochs"] == before["epochs"]
    assert (folder / "model/config.json").exists()


def test_a_run_folder_is_a_place_to_resume_from(finished: Path, tmp_path: Path) -> None:
    launch(small("run.epochs=3", f"resume={finished}"), tmp_path)
    assert [row["epoch"] for row in checkpoint.read(tmp_path / "last.pt")["history"]] == [1, 2, 3]


def test_rows_may_gain_columns(tmp_path: Path) -> None:
    report.write_csv([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "sizes": 3}], tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert rows[0] == {"epoch": "1", "loss": "2.0", "sizes": ""} and rows[1]["sizes"] == "3"


def test_checkpoints_that_do_not_fit_are_named(finished: Path, tmp_path: Path) -> None:
    last = finished / "last.pt"
    with pytest.raises(UsageError, match=r"2 epochs are finished; expected run.epochs above that"):
        launch(small("run.epochs=2", f"resume={last}"), tmp_path / "out")
    with pytest.raises(UsageError, match="made with another model"):
        launch(small("model.model_name=test_vit", f"resume={last}"), tmp_path / "out")
    short = tmp_path / "short.pt"
    short.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"short.pt: not a readable checkpoint"):
        launch(small(f"resume={short}"), tmp_path / "out")
    torch.save({"model": {}}, short)
    with pytest.raises(UsageError, match="not a training checkpoint, it lacks epoch, step"):
        launch(small(f"resume={short}"), tmp_path / "out")


def test_a_failed_write_keeps_the_old_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small()
    state = build_state(cfg, build_data(cfg), 3)
    path = tmp_path / "last.pt"
    checkpoint.save(state, path)
    old = path.read_bytes()

    def full_disk(_content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(state, path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_evaluate_counts_every_image() -> None:
    images, labels = torch.zeros(5, 1, 2, 2), torch.tensor([2, 1, 2, 0, 6])
    model = Constant(torch.tensor([1.0, 0.0, 5.0, 0.5, 0.4, 0.3, -9.0])).train()
    scores = Scores()
    metrics = evaluate(model, DataLoader(TensorDataset(images, labels), batch_size=2), scores)
    assert torch.cat(scores.predictions).tolist() == [2] * 5
    assert torch.cat(scores.targets).tolist() == labels.tolist()
    assert metrics["top1"] == pytest.approx(40) and metrics["top5"] == pytest.approx(60)
    logits = model.logits.detach().expand(5, -1)
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert model.training
    with pytest.raises(ValueError, match="loader: no batches"):
        evaluate(model, DataLoader(TensorDataset(images[:0], labels[:0])), Scores())


def test_pictures_of_colour_images_and_long_names(tmp_path: Path) -> None:
    images = TensorDataset(torch.rand(9, 3, 6, 6), torch.arange(9))
    names = tuple(f"a long class name {i}" for i in range(9))
    data = Splits("d", images, images, None, names, (3, 6, 6), (0,) * 3, (1,) * 3)
    guesses = torch.tensor([0, 0, 2, 3, 4, 5, 6, 7, 7])
    assert choose(guesses, torch.arange(9), 4) == [1, 8, 0, 7]
    prediction_sheet(images, guesses, torch.arange(9), data, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_suggested_commands_repeat_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["somewhere/vimzoo-train"])
    launch(small("run.limit_batches=1"), tmp_path, ["run.seed=3", "run.epochs=1", "model=timm"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"vimzoo-train run.seed=3 model=timm resume={tmp_path} run.epochs=2" in lines
    commands = [line for line in lines[lines.index("try next") + 1 : -1] if line and line[0] != "#"]
    assert len(commands) == 3 and not any("DIR" in line for line in commands)  # all of them can be pasted
    own = "# your own images, one folder per class; with their folder for DIR: vimzoo-train "
    assert f"{own}model=vim_tiny_patch16_224 data=folder data.root=DIR" in lines
    assert f"python -m vimzoo.eval {tmp_path}" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model.model_name=vim_digits", "model.pretrained=true"],
            "vim_digits: no published weights of this model are known; give",
        ),
        (["+model.start=nowhere.pt"], "model test_resnet: nowhere.pt: no such file"),
    ],
)
def test_missing_weights_are_one_short_sentence(words: list[str], said: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        launch(small(*words), tmp_path, words)
    text = str(caught.value)
    assert text.startswith(said) and "{" not in text and "pretrained_cfg_overlay" not in text


def test_confusion_rows_are_true_classes() -> None:
    scores = Scores()
    scores.add(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 2]))
    assert scores.confusion(3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_a_run_ends_early_where_nothing_gets_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal scores are better; a resume of the run finishes it."""
    scores = iter([50.0, 60.0, 60.0, 55.0, 59.0, 70.0])
    monkeypatch.setattr(
        Scores, "summary", lambda _: {"loss": 1.0, "top5": 0.0, "top1": next(scores, 1.0)}, raising=True
    )
    words = ["run.epochs=9", "run.early_stop=2", "run.limit_batches=1"]
    launch(small(*words), tmp_path)
    assert [row["val_top1"] for row in checkpoint.read(tmp_path / "last.pt")["history"]] == [
        50,
        60,
        60,
        55,
        59,
    ]
    assert "no better validation accuracy for 2 epochs: the run ends here" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "best.pt")["epoch"] == 3
    launch(small(*words, "resume=auto"), tmp_path)
    assert checkpoint.read(tmp_path / "last.pt")["epoch"] == 5
    with pytest.raises(UsageError, match=r"run.early_stop=0: expected null or a whole number, at least 1"):
        launch(small("run.early_stop=0"), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_default_run_reaches_98_percent(seed: Any, tmp_path: Path) -> None:
    launch(composed(f"run.seed={seed}"), tmp_path)
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert results["test"]["top1"] >= 98.0
    assert sum(row["seconds"] for row in results["epochs"]) < 240
