"""Nothing is chosen by a library because a setting was left out, and no answer is no right answer."""

import math
from typing import Any

import pytest
import torch
from trainer_helpers import small

from vimzoo.data import bundled_digits
from vimzoo.engine import evaluate
from vimzoo.engine.configuration.check import check_run
from vimzoo.engine.configuration.words import applied, readable
from vimzoo.engine.tasks import classification
from vimzoo.engine.tasks import restoration as restore_task
from vimzoo.errors import UsageError


def without(cfg, name):
    *path, last = name.split(".")
    place = cfg
    for key in path:
        place = place[key]
    del place[last]
    return cfg


TAKEN = [
    "task",
    "loss",
    "resume",
    "optim",
    "optim.lr",
    "optim.opt",
    "optim.weight_decay",
    "sched",
    "sched.sched",
    "sched.min_lr",
    "sched.step_on_epochs",
    "aug",
    "aug.transform",
    "run.ema",
    "run.ema.decay",
    "run.device",
    "run.save_every",
    "data.workers",
]


@pytest.mark.parametrize("name", TAKEN)
def test_what_was_taken_away_is_named(name: str) -> None:
    cfg = small("run.ema.decay=0.9") if name != "run.ema" else small()
    with pytest.raises(UsageError, match=rf"^{name}\b"):
        check_run(without(cfg, name))


@pytest.mark.parametrize("empty", [{}, None])
def test_an_empty_loss(empty: Any) -> None:
    data = bundled_digits()
    for task in (classification, restore_task):
        with pytest.raises(UsageError, match="loss="):
            task.build_loss({**small(), "loss": empty}, data)


@pytest.mark.parametrize("group", ["optim", "sched"])
def test_empty_groups(group: Any) -> None:
    with pytest.raises(UsageError, match=group):
        check_run({**small(), group: {}})
    with pytest.raises(UsageError, match=group):
        check_run({**small(), group: None})


def test_null_is_no_value() -> None:
    with pytest.raises(UsageError, match=r"optim.lr, optim.weight_decay: not set; expected values"):
        check_run(small("optim.lr=null", "optim.weight_decay=null"))
    with pytest.raises(UsageError, match=r"sched.decay_rate: not set"):
        check_run(small("sched=multistep", "sched.decay_rate=null"))
    check_run(small("run.ema=null"))
    check_run(small("aug.transform=null"))


def test_of_a_mapping_only_what_is_given_changes() -> None:
    """As in training, where Hydra does so."""
    cfg = small()
    changed = applied(cfg, ["optim={lr: 0.5}", "run={save_every: {steps: 7}}", "sched={}"])
    assert changed["optim"] == {**cfg["optim"], "lr": 0.5} and changed["sched"] == cfg["sched"]
    assert changed["run"] == {**cfg["run"], "save_every": {**cfg["run"]["save_every"], "steps": 7}}


def test_files_may_have_any_name() -> None:
    for key in ("data.labels", "data.meta_info", "data.cache", "data.root"):
        assert readable(f"{key}=a=b (1).csv") == f'{key}="a=b (1).csv"'


def test_no_answer_is_wrong_and_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that answers NaN to two of six images; their class, 0, is what ranking NaN would give."""
    logits = torch.eye(3).repeat(2, 1)
    logits[0, 1] = math.nan
    logits[3] = math.inf
    loader = [(logits[:4], torch.tensor([0, 1, 2, 0])), (logits[4:], torch.tensor([1, 2]))]
    scores = evaluate(torch.nn.Identity(), loader, classification.Scores())
    assert scores["top1"] == pytest.approx(100 * 4 / 6) and math.isnan(scores["loss"])
    assert "2 of 6 outputs of the model hold NaN or infinity" in capsys.readouterr().err
    logits = torch.tensor([[1.0, -math.inf]])  # a class that is ruled out
    assert (
        evaluate(torch.nn.Identity(), [(logits, torch.tensor([0]))], classification.Scores())["top1"] == 100
    )
    assert capsys.readouterr().err == ""


def test_no_picture_has_no_psnr(capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.rand(2, 3, 16, 16)
    broken = images.clone()
    broken[1, 0, 2, 2] = math.nan
    scores = restore_task.Scores()
    summary = evaluate(torch.nn.Identity(), [(broken, images)], scores)
    assert math.isnan(summary["psnr"]) and scores.psnr[0] == math.inf
    assert "1 of 2 outputs" in capsys.readouterr().err
