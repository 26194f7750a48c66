"""A run that goes on does what is asked now, or says that it does not."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from trainer_helpers import small

from vimzoo.engine import launch
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.checkpoints.lookup import configuration
from vimzoo.engine.configuration.overrides import quoted
from vimzoo.engine.configuration.words import (
    applied,
    as_typed,
    composed_settings,
    for_hydra,
    parsed,
    readable,
)
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

WHOLE = ["run.limit_batches=null", "data.batch_size=256", "sched.warmup_epochs=0", "run.ema=null"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of four epochs of four updates each, and one of two."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "prediction_sheet", lambda *_: None)
        patch.setattr(report, "curves", lambda *_: None)
        launch(small(*WHOLE, "run.epochs=4"), folder / "whole")
        launch(small(*WHOLE, "run.epochs=2"), folder / "short")
    return folder


def rates(folder):
    return [float(row["lr"]) for row in csv.DictReader((folder / "metrics.csv").open())]


def groups(folder):
    return checkpoint.read(folder / "last.pt")["optimizer"]["param_groups"]


def test_the_schedule_survives_another_batch_size(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the updates in an epoch: the learning rate is that of the share of the run that is done."""
    content = checkpoint.read(begun / "whole/previous.pt")
    torch.save({**content, "best": -1.0}, tmp_path / "old.pt")
    launch(
        small(*WHOLE, "run.epochs=4", "data.batch_size=512", f"resume={tmp_path / 'old.pt'}"),
        tmp_path / "new",
    )
    assert rates(tmp_path / "new") == pytest.approx(rates(begun / "whole"))
    assert checkpoint.read(tmp_path / "new/last.pt")["step"] == 3 * 4 + 2
    assert "data.batch_size 256 -> 512\n" in capsys.readouterr().out


def test_a_longer_run_says_its_new_rate(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(small(*WHOLE, "run.epochs=4", f"resume={begun / 'short'}"), tmp_path)
    assert rates(tmp_path)[2:] == pytest.approx(rates(begun / "whole")[2:])
    said = capsys.readouterr().out
    assert "run.epochs 2 -> 4\n" in said and "learning rate 1.0e-05 -> 2.0e-03\n" in said
    assert "sched.num_epochs" not in said


def test_settings_of_the_optimizer_are_in_force(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["optim.lr=1e-3", "optim.weight_decay=0.5", "optim.betas=[0.5,0.6]"]
    launch(small(*WHOLE, "run.epochs=3", *words, f"resume={begun / 'short'}"), tmp_path / "new")
    config = yaml.safe_load((tmp_path / "new/config.yaml").read_text())["optim"]
    assert config["betas"] == [0.5, 0.6] and config["weight_decay"] == 0.5
    assert {group["weight_decay"] for group in groups(tmp_path / "new")} == {0.0, 0.5}
    assert all(tuple(group["betas"]) == (0.5, 0.6) for group in groups(tmp_path / "new"))
    assert all(group["initial_lr"] == 1e-3 for group in groups(tmp_path / "new"))
    launch(small(*WHOLE, "run.epochs=3", "optim.lr=1e-3"), tmp_path / "fresh")
    assert rates(tmp_path / "new")[2] == rates(tmp_path / "fresh")[2]
    assert "optim.weight_decay 0.05 -> 0.5\n" in capsys.readouterr().out


def test_a_rate_that_no_schedule_sets_is_scaled(tmp_path: Path) -> None:
    """What a plateau has lowered it to stays, in proportion."""
    words = ["sched=constant", "sched.sched=plateau", "+sched.patience_epochs=0", "sched.step_on_epochs=true"]
    words += ["sched.warmup_epochs=0", "+sched.decay_rate=0.5"]
    launch(small(*words, "run.epochs=3", "optim.lr=1e-2"), tmp_path / "old")
    old = groups(tmp_path / "old")[0]["lr"]
    cfg = small(*words, "run.epochs=4", "optim.lr=1e-3", f"resume={tmp_path / 'old'}")
    launch(cfg, tmp_path / "new")
    assert rates(tmp_path / "new")[3] == pytest.approx(old / 10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.opt=sgd"], "optim.opt was adamw, not sgd; it must not change on resume"),
        (["optim.layer_decay=0.7"], "optim.layer_decay was None, not 0.7; it must not change on resume"),
        (["+optim.nonsense=1"], "optim .*nonsense"),
        (["optim.weight_decay=0"], "its optimizer does not fit optim and run.freeze"),
        (["+model.start=weights.pth"], "continues with the weights of the run; expected no model.start"),
    ],
)
def test_what_cannot_change_is_named(overrides: Any, message: str, begun: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        launch(small(*WHOLE, "run.epochs=3", *overrides, f"resume={begun / 'short'}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_to_begin_from_may_be_gone(begun: Path, tmp_path: Path) -> None:
    """A run that began from a file continues without it."""
    content = checkpoint.read(begun / "short/last.pt")
    content["config"]["model"]["start"] = "gone.pth"
    torch.save(content, tmp_path / "old.pt")
    launch({**small(*WHOLE, "run.epochs=3"), "resume": str(tmp_path / "old.pt")}, tmp_path / "new")
    assert len(rates(tmp_path / "new")) == 3


def test_checkpoints_of_older_versions_go_on(begun: Path, tmp_path: Path) -> None:
    """They hold no settings, or fewer."""
    content = checkpoint.read(begun / "whole/previous.pt")
    torch.save({**content, "config": {}}, tmp_path / "old.pt")
    launch(small(*WHOLE, "run.epochs=4", f"resume={tmp_path / 'old.pt'}"), tmp_path / "new")
    assert rates(tmp_path / "new") == pytest.approx(rates(begun / "whole"))
    assert configuration(begun / "short/last.pt")["run"]["epochs"] == 2


def test_words_on_the_settings_of_a_run() -> None:
    cfg = composed_settings(
        ["model=test_vim", "data=folder", "data.root=photos", "optim.lr=2e-3", "run.epochs=7"]
    )
    same = applied(cfg, [])
    assert same == cfg
    longer = applied(cfg, ["run.epochs=9", "optim.lr=1e-1", "+model.depth=3", "~data.img_size"])
    assert longer["run"]["epochs"] == longer["sched"]["num_epochs"] == 9 and cfg["run"]["epochs"] == 7
    assert longer["optim"]["lr"] == 0.1 and longer["model"]["depth"] == 3 and "img_size" not in longer["data"]
    other = applied(cfg, ["data=digits", "data.batch_size=8", "sched=constant"])
    assert other["data"] == {**composed_settings(["data=digits"])["data"], "batch_size": 8}
    assert other["optim"] == cfg["optim"] and other["sched"]["num_epochs"] == 7
    assert applied(cfg, ["experiment=photos_denoise"]) == composed_settings(["experiment=photos_denoise"])
    del cfg["run"]["tracker"]  # as a run of an older version
    assert applied(cfg, [])["run"]["tracker"] is None
    for text, message in (
        ("optim.lrr=1", "optim.lrr=1: the run has no such setting; similar names: lr"),
        ("optim.lr=1,2", "expected one value, not several"),
        ("optim.lr=(", r"optim.lr=\(: .*expected KEY=VALUE"),
    ):
        with pytest.raises(UsageError, match=message):
            applied(cfg, [text])


NAMES = [
    "run/seed=0",
    "my photos",
    "it's",
    '"quoted"',
    "2021",
    "фото",
    "a$b",
    "~",
    "a,b",
    "null",
    "a\\",
    "{x}",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_folders_are_read_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    for text in (readable(f"data.root={name}"), quoted("data.root", name)):
        assert parsed(text).value() == name and not parsed(text).is_sweep_override()


def test_escapes_stay_escapes() -> None:
    """As a word for Hydra has them; in a sweep, where quotes would not do, too."""
    assert readable(r"data.root=my\ photos") == r"data.root=my\ photos"
    assert parsed(r"data.root=my\ photos").value() == "my photos"
    assert readable("hydra.run.dir=2024") == 'hydra.run.dir="2024"'


def test_other_words_stay_as_they_are() -> None:
    for text in ("-m", "run.seed=0,1", "data.root=null", "data.root=${oc.env:DATA}", "data.root=a,b", "optim.lr=1e-3",
                 "data.root='a=b'", "data.root=[a,b]", "--cfg", "data=folder", "run.epochs=3"):  # fmt: skip
        assert readable(text) == text
    typed = [
        "data=folder",
        "data.root=photos",
        "+model.depth=3",
        "++run.seed=1",
        "hydra.run.dir=x",
        "resume=a",
        "-m",
    ]
    forced = for_hydra(typed)
    assert forced == [
        "data=folder", "++data.root=photos", "+model.depth=3", "++run.seed=1", "hydra.run.dir=x", "++resume=a", "-m",
    ]  # fmt: skip
    assert as_typed(forced, typed) == typed
    assert for_hydra(["run.seed=1", "resume=auto"]) == ["run.seed=1", "resume=auto"]
