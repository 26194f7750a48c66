"""Published recipes: as configs/README.md states them, three steps each; starting from weights, freezing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn
from trainer_helpers import composed, make_images, small

from vimzoo.data import EpochBatches
from vimzoo.engine import launch
from vimzoo.engine.build import build_data, build_state, freeze
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.configuration.composing import config_dir
from vimzoo.engine.loop import train_step
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

RECIPES = sorted(path.stem for path in (config_dir() / "experiment").glob("vi*.yaml"))
RECIPES += sorted(path.stem for path in (config_dir() / "experiment").glob("*vmamba*.yaml"))
RECIPES += sorted(path.stem for path in (config_dir() / "experiment").glob("local_vim*.yaml"))
RECIPES += sorted(path.stem for path in (config_dir() / "experiment").glob("plain_mamba*.yaml"))
RECIPES += sorted(path.stem for path in (config_dir() / "experiment").glob("group_mamba*.yaml"))
RECIPES += sorted(path.stem for path in (config_dir() / "experiment").glob("mobile_mamba*.yaml"))
RECIPES += ["mila_tiny", "spatial_mamba_tiny"]


def tables():
    """(recipe, setting, cell) of every cell of configs/README.md."""
    names = []
    for line in (config_dir() / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| setting"):
            names = [cell.strip("`") for cell in cells[1:-1]]
        elif line.startswith("| `"):
            yield from (
                (name, cells[0].strip("`"), cell) for name, cell in zip(names, cells[1:-1], strict=True)
            )


def test_the_table_is_what_composes() -> None:
    cells = list(tables())
    cfgs = {name: composed(f"experiment={name}") for name in {name for name, _, _ in cells}}
    assert set(RECIPES) <= set(cfgs) and len(cells) > 300
    for name, setting, cell in cells:
        value = cfgs[name]
        for key in setting.split("."):
            value = value.get(key) if value is not None else None
        assert value == yaml.safe_load(cell if cell != "-" else "null"), (
            f"{name} {setting}: {value}, not {cell}"
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), {"a": 12, "b": 12})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def tiny(name):
    """Words that shrink a model and its images, and nothing of the recipe."""
    directions = (
        ["+model.directions=[h,w2_flip]"] if name.startswith("local") and "search" not in name else []
    )
    if name.startswith(("group_mamba", "mobile_mamba")):
        return [f"+model.depths={[1] * (4 if name.startswith('group') else 3)}", "+model.dims=16"]
    if "vmamba" in name or name in ("mila_tiny", "spatial_mamba_tiny"):
        return ["+model.depths=[1,1,1,1]", "+model.dims=8", *directions]
    return [*directions, "+model.depth=2", "+model.embed_dim=16", "+model.img_size=32"]


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith(("_k400", "_ssv2"))])
def test_a_recipe_takes_three_steps(name: str, folder: Path, tmp_path: Path) -> None:
    words = [f"experiment={name}", f"data.root={folder}", "data.img_size=32", "data.batch_size=4"]
    words += ["data.workers=0", "run.limit_batches=3", "run.epochs=1", "run.device=cpu", *tiny(name)]
    if "stride8" in name:
        source = composed(f"experiment={name.removesuffix('_stride8')}")["model"]["model_name"]
        model = timm.create_model(source, depth=2, embed_dim=16, img_size=32)
        torch.save(model.state_dict(), tmp_path / "start.pth")
        words.append(f"model.start={tmp_path / 'start.pth'}")
    teacher = composed(f"experiment={name}")["teacher"] or {}
    if isinstance(teacher.get("model"), dict):
        tokens = teacher["compare"] == "tokens"
        source = teacher["model"]["model_name"] if tokens else "test_resnet"
        shrunk = dict(depth=1, img_size=32) if tokens else {}
        model = timm.create_model(source, num_classes=2, **shrunk)
        torch.save(model.state_dict(), tmp_path / "teacher.pth")
        words += [f"teacher.model.model_name={source}", f"+teacher.model.start={tmp_path / 'teacher.pth'}"]
        words += [f"+teacher.model.{key}={value}" for key, value in shrunk.items()]
    cfg = composed(*words)
    cfg["sched"] |= {"num_epochs": 1, "warmup_epochs": 0}
    launch(cfg, tmp_path / "out")
    row = json.loads((tmp_path / "out/metrics.json").read_text())["epochs"][0]
    assert row["step"] == 3 and 0 < row["train_loss"] < 5


def test_repeats_come_with_keys_of_their_own() -> None:
    batches = EpochBatches(10, 6, seed=1, repeats=3)
    batches.epoch = 2
    (batch,) = list(batches)
    assert len(batches) == 1 and [key[2] for key in batch] == [0, 1, 2, 0, 1, 2]
    assert batch[0][:2] == batch[1][:2] == batch[2][:2] != batch[3][:2] and batch[0][0] == 2
    with pytest.raises(UsageError, match=r"`repeats`=0: expected at least 1"):
        EpochBatches(10, 6, seed=1, repeats=0)


def test_repeats_are_augmented_each_anew(folder: Path) -> None:
    cfg = composed("data=folder", f"data.root={folder}", "data.img_size=16", "model=test_vim")
    train = build_data(cfg).train
    assert not torch.equal(train[0, 3, 0][0], train[0, 3, 1][0]) and train[0, 3, 0][1] == train[0, 3, 1][1]


@pytest.fixture
def published(tmp_path):
    """A file of weights with another size and other classes, as its authors might publish it."""
    model = timm.create_model("test_vim", num_classes=7)
    torch.save({"model": model.state_dict()}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def test_a_linear_probe_trains_the_head_alone(published: Any, folder: Path, tmp_path: Path) -> None:
    words = [
        "model=test_vim",
        f"+model.start={published}",
        "data=folder",
        f"data.root={folder}",
        "data.workers=0",
    ]
    words += [
        "data.img_size=96",
        "data.batch_size=4",
        "run.epochs=1",
        "run.device=cpu",
        "run.freeze=backbone",
    ]
    cfg = composed(*words, "run.ema=null", "run.limit_batches=2")
    before = classification.build_model(cfg, build_data(cfg)).state_dict()
    launch(cfg, tmp_path / "out")
    after = checkpoint.read(tmp_path / "out/last.pt")["model"]
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "head.weight",
        "head.bias",
    }
    old = torch.load(published)["model"]
    kept = [name for name in old if old[name].shape == after[name].shape and "head" not in name]
    assert len(kept) > 20 and all(torch.equal(old[name], after[name]) for name in kept)


@pytest.mark.parametrize("classes", [7, 10])
def test_the_classifier_of_a_start_stays_where_its_count_is_that_of_the_data(
    classes: int, tmp_path: Path
) -> None:
    start = timm.create_model("test_vim", num_classes=classes)  # 10 by default, as the digits have
    torch.save(start.state_dict(), tmp_path / "start.pth")
    cfg = composed(
        "model=test_vim", f"+model.start={tmp_path / 'start.pth'}", "data=digits", "data.img_size=64"
    )
    model = classification.build_model({**cfg, "model": {**cfg["model"], "in_chans": 3}}, build_data(cfg))
    assert model.head.weight.shape[0] == 10
    assert torch.equal(model.norm.weight, start.norm.weight)
    assert (classes == 10) == torch.equal(model.head.weight, start.state_dict().get("head.weight"))


def test_layer_decay_slows_early_layers(published: Any) -> None:
    words = ["model=test_vim", f"+model.start={published}", "optim.layer_decay=0.5", "data.img_size=64"]
    cfg = composed(*words, "+model.in_chans=1", "run.device=cpu")
    state = build_state(cfg, build_data(cfg), 3)
    scales = {group["lr_scale"] for group in state.optimizer.param_groups}
    assert (
        max(scales) == 1
        and min(scales) < 0.3
        and state.lr == max(g["lr"] for g in state.optimizer.param_groups)
    )


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    state = build_state(cfg := small("run.freeze=[conv1.*,bn1.*,layer1.*]"), build_data(cfg), 3)
    state.model.train()
    assert {name for name, module in state.model.named_modules() if module in state.frozen} >= {
        "bn1",
        "layer1",
    }
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    for module in state.frozen:
        module.eval()
    train_step(state, torch.rand(8, 1, 8, 8), torch.arange(8))
    changed = {
        name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and not any(re.match(r"(conv1|bn1|layer1)\.", name) for name in changed)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (["nothing.*"], r"nothing.\* matches no parameter of Sequential"),
        ("*", "nothing is left to train"),
        ("backbone", "Sequential has no classifier"),
    ],
)
def test_freezing_names_mistakes(what: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        freeze(nn.Sequential(nn.Linear(2, 2)), what)


@pytest.mark.parametrize("content", [None, b"no weights", b"PK\x03\x04"])
def test_an_unusable_start_is_named(content: Any, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "start.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"model .*start.pth"):
        launch(small(f"+model.start={tmp_path / 'start.pth'}"), tmp_path / "out")
