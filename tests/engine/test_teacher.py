"""Teachers: the losses by hand, whom the gradients reach, resumed runs, classes and pixels of other models."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from trainer_helpers import calling, composed, make_images, same_tensors, small

from vimzoo import load_checkpoint
from vimzoo.data import Splits
from vimzoo.engine import launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.loop import in_float32, train_step
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.engine.teacher import hard_loss, soft_loss, taught_loss, token_loss
from vimzoo.errors import UsageError

MESA = "teacher={model: ema, weight: 1.5, after: 0.5}"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def test_losses_by_hand() -> None:
    scores, given = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 1.0]])
    assert soft_loss(scores, given).item() == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(4 / 3))
    torch.manual_seed(0)
    scores, given = torch.randn(5, 4), torch.randn(5, 4)
    wanted = (given / 2).softmax(1)
    divergence = F.kl_div((scores / 2).log_softmax(1), wanted, reduction="batchmean")
    entropy = -(wanted * wanted.log()).sum(1).mean()
    torch.testing.assert_close(soft_loss(scores, given, 2.0), 4 * (divergence + entropy))
    assert hard_loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[2.0, 1.0]])).item() == pytest.approx(
        math.log(4)
    )
    tokens, others = torch.tensor([[[1.0, 0], [1, 1]]]), torch.tensor([[[0.0, 2], [3, 3]]])
    assert token_loss(tokens, others).item() == pytest.approx(1.0)  # right angle 2, same direction 0


def test_the_average_teaches_and_is_not_taught() -> None:
    cfg = small(MESA, "run.epochs=2", "run.ema={decay: 0.5, use_warmup: false}", "run.clip_grad=null")
    state = build_state(cfg, build_data(cfg), 3)
    torch.manual_seed(0)
    images, targets = torch.rand(8, 1, 8, 8), torch.arange(8)
    state.model.train()
    train_step(state, images, targets)
    assert state.ema is not None
    before = {name: value.clone() for name, value in state.ema.module.state_dict().items()}
    output = in_float32(state.model.eval()(images))
    labels = state.criterion(output, targets)
    torch.testing.assert_close(taught_loss(state, images, output, targets), labels, rtol=0, atol=0)
    state.epoch = 1  # half of the epochs are over
    given = state.ema.module(images).softmax(1).detach()
    wanted = labels - 1.5 * (given * output.log_softmax(1)).sum(1).mean()
    found = taught_loss(state, images, output, targets)
    assert found > labels + 1
    torch.testing.assert_close(found, wanted)
    (slope,) = torch.autograd.grad(found, output, retain_graph=True)
    (by_labels,) = torch.autograd.grad(labels, output, retain_graph=True)
    torch.testing.assert_close(slope - by_labels, 1.5 * (output.softmax(1) - given) / 8)
    found.backward()
    assert all(parameter.grad is None for parameter in state.ema.module.parameters())
    assert same_tensors(dict(state.ema.module.state_dict()), before)


def test_a_resumed_run_is_taught_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    cfg = small(MESA, "run.epochs=2")
    launch(cfg, tmp_path / "whole")
    monkeypatch.setattr(
        loop_module, "train_step", calling(6, die)
    )  # within the second epoch, which is taught
    with pytest.raises(Killed):
        launch(
            {**cfg, "run": cfg["run"] | {"save_every": {"steps": 1, "minutes": None}}}, tmp_path / "killed"
        )
    monkeypatch.setattr(loop_module, "train_step", train_step)
    launch({**cfg, "resume": str(tmp_path / "killed/last.pt")}, tmp_path / "resumed")
    whole, resumed = (checkpoint.read(tmp_path / name / "last.pt") for name in ("whole", "resumed"))
    assert all(same_tensors(whole[key], resumed[key]) for key in ("model", "model_ema", "optimizer"))
    launch({**cfg, "teacher": None}, tmp_path / "untaught")
    untaught = checkpoint.read(tmp_path / "untaught/last.pt")
    first, second = ([row["train_loss"] for row in run["history"]] for run in (whole, untaught))
    assert first[0] == second[0] and first[1] > second[1]


def folder_state(tmp_path: Path, *words: str) -> tuple[Any, Splits]:
    """A run on colour images of the classes a, b and c."""
    root = make_images(tmp_path / "images", {"a": 6, "b": 6, "c": 6})
    cfg = composed(
        "data=folder", f"data.root={root}", "data.img_size=32", "data.batch_size=4", "run.device=cpu", *words
    )
    data = build_data(cfg)
    return build_state(cfg, data, 3), data


def saved(tmp_path: Path, name: str, classes: tuple[str, ...] = (), **options: Any) -> Path:
    """A file of a model's weights, with the names of its classes."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=len(classes) or 3, **options)
    path = tmp_path / "teacher.pt"
    torch.save(
        {"model": model.state_dict(), **({"data": {"classes": list(classes)}} if classes else {})}, path
    )
    return path


def test_classes_are_known_by_name_and_pixels_normalised(tmp_path: Path) -> None:
    path = saved(tmp_path, "test_resnet", ("c", "x", "a", "b"))
    words = (
        f"{{model: {{model_name: test_resnet, start: {path}}}, weight: 2, label_weight: 0.5, img_size: 64}}"
    )
    state, data = folder_state(tmp_path, "model=test_vim", f"teacher={words}")
    teacher = state.teacher
    assert teacher is not None and teacher.columns is not None and teacher.columns.tolist() == [2, 3, 0]
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    model: Any = timm.create_model("test_resnet", num_classes=4)
    model.load_state_dict(torch.load(path)["model"])
    pixels = torch.rand(2, 3, 32, 32)
    mine, its = (
        torch.tensor(values).view(2, -1, 1, 1)
        for values in ((data.mean, data.std), (model.pretrained_cfg["mean"], model.pretrained_cfg["std"]))
    )
    larger = F.interpolate((pixels - its[0]) / its[1], size=64, mode="bicubic", antialias=True)
    given = model.eval()(larger)[:, [2, 3, 0]].detach()
    scores, targets = torch.randn(2, 3), torch.tensor([0, 2])
    wanted = 0.5 * state.criterion(scores, targets) + 2 * soft_loss(scores, given)
    found = taught_loss(state, (pixels - mine[0]) / mine[1], scores, targets)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_second_classifier_learns_from_the_teacher_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, "test_resnet", ("a", "b", "c"))
    words = f"{{model: {{model_name: test_resnet, start: {path}}}, compare: hard, weight: 0.5, label_weight: 0.5}}"
    state, _ = folder_state(tmp_path, "model=test_group_mamba", "aug=none", f"teacher={words}")
    images, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    first, second = state.model.train()(images)
    loss = taught_loss(state, images, (first, second), targets)
    given = state.teacher.outputs(state.teacher.model, images).argmax(1)
    by_hand = 0.5 * state.criterion(first, targets) + 0.5 * F.cross_entropy(second, given)
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    head = state.model.head
    torch.testing.assert_close(head.fc.bias.grad, 0.5 * bias_slope(first, F.one_hot(targets, 3)))
    torch.testing.assert_close(head.fc_dist.bias.grad, 0.5 * bias_slope(second, F.one_hot(given, 3)))
    assert state.model.eval()(images).shape == (4, 3)


def bias_slope(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The gradient of mean cross-entropy by the classifier's bias."""
    return (scores.softmax(1) - wanted).mean(0).detach()


def test_tokens_of_another_width(tmp_path: Path) -> None:
    small_vim = dict(depth=2, embed_dim=24, img_size=32, cls_token="head")
    path = saved(tmp_path, "vim_tiny_patch16_224", ("p", "q"), **small_vim)
    given = ", ".join(f"{key}: {value}" for key, value in small_vim.items())
    words = f"{{model: {{model_name: vim_tiny_patch16_224, start: {path}, {given}}}, compare: tokens}}"
    student = ["model=videomamba_tiny_patch16_224", "+model.depth=2", "+model.embed_dim=16"]
    state, _ = folder_state(tmp_path, *student, "+model.distill_dim=24", f"teacher={words}")
    images, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    state.model.train()
    loss = train_step(state, images, targets)
    assert math.isfinite(loss)
    scores, tokens = state.model(images)
    assert tokens.shape == (4, 5, 24)
    theirs = state.teacher.model.forward_features(images)
    distance = (F.normalize(tokens, dim=-1) - F.normalize(theirs, dim=-1)).square().sum(-1).mean()
    wanted = state.criterion(scores, targets) + distance
    torch.testing.assert_close(taught_loss(state, images, (scores, tokens), targets), wanted)
    torch.save(state.model.state_dict(), tmp_path / "student.pth")
    plain = timm.create_model(
        "videomamba_tiny_patch16_224", num_classes=3, depth=2, embed_dim=16, img_size=32
    )
    load_checkpoint(plain, tmp_path / "student.pth")
    torch.testing.assert_close(plain.eval()(images), state.model.eval()(images))
    state, _ = folder_state(tmp_path / "other", *student, f"teacher={words}")
    with pytest.raises(
        UsageError, match=r"compare=tokens: the model's output is \(4, 3\), the teacher's \(4, 5, 24\)"
    ):
        train_step(state, images, targets)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["teacher=ema", "run.ema=null"], "teacher.model=ema: expected run.ema, which is null"),
        (["teacher=other"], "teacher.model=other: expected ema, or model_name"),
        (["teacher={model: ema, weight: 0}"], "weight=0: expected a number above 0"),
        (["teacher={model: ema, label_weight: -1}"], "label_weight=-1: expected a number of at least 0"),
        (["teacher={model: ema, after: 1}"], "after=1: expected a share of the epochs below 1"),
        (["teacher={model: ema, compare: softly}"], "compare=softly: expected soft, hard or tokens"),
        (["teacher={model: ema, compare: tokens}"], "compare=tokens: expected another model, not ema"),
        (["teacher={model: ema, compare: hard, temperature: 2}"], "temperature=2: goes with compare: soft"),
        (["teacher={model: ema, alpha: 1}"], "teacher.alpha: expected one of model, compare"),
        (["teacher={model: {model_name: test_vim}}"], "teacher.model test_vim: has no weights"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    cfg = small(*words)
    with pytest.raises(UsageError, match=message):
        build_state(cfg, build_data(cfg), 3)


def test_other_tasks_take_none() -> None:
    cfg = composed("experiment=shapes", "teacher=ema", "run.device=cpu")
    with pytest.raises(UsageError, match="task=segment takes none; expected null"):
        build_state(cfg, build_data(cfg), 3)
