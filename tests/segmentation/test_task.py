"""task=segment: from a folder of masks to scores, pictures and predicted masks."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.layers import DropPath
from torch import nn

from vimzoo import eval as eval_command
from vimzoo import export, predict
from vimzoo.data import UsageError, drawn_shapes, mask_folder
from vimzoo.data.images.classes import numbered_as
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.loop import in_float32
from vimzoo.engine.mask_files import save_mask
from vimzoo.engine.tasks.segmentation import Scores, build_loss, build_model
from vimzoo.models.registry import FAMILIES
from vimzoo.models.weights.saving import save_for_hf

WORDS = [
    "task=segment", "data=masks", "data.img_size=32", "data.fit=crop", "data.in_chans=1", "data.batch_size=4",
    "data.workers=0",
    "model=test_unet", "loss=dice_cross_entropy", "run.epochs=1", "run.device=cpu", "optim.lr=0.01",
    "data.ignore_index=-1", "data.map={0: 0, 2: 1, 255: ignore}", "data.classes=[ground, box]",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images of 40 x 50 pixels with a bright box each."""
    root = tmp_path_factory.mktemp("boxes")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for i in range(16):
        mask = np.zeros((40, 50), dtype=np.uint8)
        mask[i : i + 16, 2 * i : 2 * i + 18] = 2
        mask[39] = 255
        Image.fromarray((mask == 2) * np.uint8(200)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("place") / "outputs/2026-01-01/run"
    launch(composed_settings([*WORDS, f"data.root={folder}"]), out)
    return out


def test_a_run_and_its_evaluation(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((run / "metrics.json").read_text())["test"]
    assert {"miou", "dice_pooled", "dice_per_image", "hd95_pooled_px", "hd95_missing"} < set(found)
    assert eval_command.main([str(run), "--json", "--out", str(tmp_path)]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["miou"] == found["miou"] and 0 < numbers["miou"] <= 100
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.csv",
        "images.csv",
        "masks.png",
        "eval.json",
    }
    classes = list(csv.DictReader((tmp_path / "classes.csv").open()))
    assert [row["class"] for row in classes] == ["ground", "box"]
    assert 100 * np.mean([float(row["iou_pooled"]) for row in classes]) == pytest.approx(
        numbers["miou"], abs=0.01
    )
    images = list(csv.DictReader((tmp_path / "images.csv").open()))
    for row in images:
        assert (
            sum(int(row[kind]) for kind in ("tp", "fn"))
            == {"ground": 39 * 50 - 288, "box": 288}[row["class"]]
        )


def test_predicted_masks(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / "images" / f"{i}.png") for i in (3, 4)]
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    words = [
        *files,
        str(tmp_path / "torn.png"),
        "--model",
        str(run),
        "--masks",
        str(tmp_path / "out"),
        "--json",
    ]
    assert predict.main(words) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["mask"]).name for row in rows[:2]] == ["3.png", "4.png"] and "error" in rows[2]
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    assert model.window == (32, 32) and model.pretrained_cfg["label_names"] == ["ground", "box"]
    mean, std = model.pretrained_cfg["mean"][0], model.pretrained_cfg["std"][0]
    image = (torch.from_numpy(np.array(Image.open(files[0]))).float() / 255 - mean) / std
    with torch.no_grad():
        want = model(image[None, None]).argmax(1)[0].numpy()
    mask = Image.open(rows[0]["mask"])
    assert mask.mode == "P" and np.array_equal(np.asarray(mask), want)
    assert rows[0]["classes"] == pytest.approx(
        {
            name: share
            for name, share in (("ground", (want == 0).mean()), ("box", (want == 1).mean()))
            if share
        }
    )


def test_refused_predictions(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, model = str(folder / "images" / "3.png"), ["--model", str(run)]
    for words, message in (
        ([image, *model], "a segmentation model; expected --masks FOLDER"),
        ([image, image, *model, "--masks", str(tmp_path)], "both masks would be"),
        ([image, *model, "--masks", str(folder / "images")], "would replace it"),
    ):
        assert predict.main(words) == 2
        assert message in capsys.readouterr().err


def test_an_exported_file_reads_whole_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a model that reads windows."""
    path = tmp_path / "run.ts"
    (written,) = export.export(str(run), "torchscript", path, size="dynamic")
    assert written.worst.difference < 3e-5 and "written with window=None" in capsys.readouterr().err
    model: Any = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    x = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(path)(x), model.whole(x), atol=1e-4)
        assert not torch.allclose(model(x), model.whole(x), atol=1e-4)


@pytest.mark.parametrize("kind", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_file_for_images_of_one_coarse_position(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as the images of this run, 32 pixels wide and high."""
    (written,) = export.export(str(run), kind, tmp_path / "run")
    assert written.shapes == ((1, 1, 32, 32),) and "written for 32 x 32 pixels" in capsys.readouterr().err


def test_large_masks_come_back(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    want = np.arange(300).reshape(15, 20)
    for i in range(4):
        Image.new("L", (20, 15)).save(tmp_path / "images" / f"{i}.png")
        save_mask(want, tmp_path / "masks" / f"{i}.png")
    data = mask_folder(tmp_path, test_fraction=1.0, ignore_index=-1)
    assert np.array_equal(data.val[0][1].numpy(), want)


def settings(*words: str) -> dict[str, Any]:
    return composed_settings(["experiment=shapes", "data.count=16", *words])


def test_scores_of_perfect_and_broken_outputs() -> None:
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[:, 2:6, 2:6] = 1
    target[0, 0] = 255
    logits = torch.stack([target == 0, target == 1], 1).float() * 9
    scores = Scores(2, distances=True)
    scores.add(logits, target)
    found = scores.summary()
    assert found["miou"] == found["dice_pooled"] == found["dice_per_image"] == 100
    assert (found["hd95_pooled_px"], found["hd95_missing"]) == (0, 0)
    logits[1] = math.nan
    broken = Scores(2)
    broken.add(logits, target)
    assert broken.counted[1].tolist() == [[0, 16, 48], [0, 48, 16]] and math.isnan(broken.summary()["loss"])


def test_outputs_are_scored_at_the_size_of_the_mask() -> None:
    target = torch.zeros(1, 20, 30, dtype=torch.long)
    target[:, :, 15:] = 1
    scores = Scores(2)
    scores.add(torch.stack([target == 0, target == 1], 1)[..., ::2, ::2].float(), target)
    hits, alarms, misses = scores.counted[0].sum(0).tolist()
    assert hits + misses == 600 and alarms <= 20 and scores.summary()["miou"] > 90


def test_losses() -> None:
    cfg = settings("loss.name=cross_entropy", "loss.class_weights=balanced")
    data = build_data(cfg)
    loss: Any = build_loss(cfg, data)[1]
    assert data.pixels is not None
    weighted = loss.weights * torch.from_numpy(data.pixels)
    assert torch.allclose(weighted, weighted.mean().expand(3)) and loss.shares == (1.0, 0.0)
    cfg["loss"] = {"name": "dice", "class_weights": {"brick": 3}, "batch": True}
    assert build_loss(cfg, data)[1].options["batch"] is True  # type: ignore[index, union-attr]
    for asked in ("bce", {"name": "dice", "speed": 1}, {"name": "dice", "absent": "no"}):
        with pytest.raises(UsageError, match="loss="):
            build_loss({**cfg, "loss": asked}, data)
    with pytest.raises(UsageError, match=r"aug.mixup.mixup_alpha: task=segment does not mix images"):
        build_loss({**cfg, "aug": {"mixup": {"mixup_alpha": 0.2}}}, data)


def test_models(tmp_path: Path) -> None:
    cfg = settings("model=test_unet")
    data = build_data(cfg)
    backbone = timm.create_model("test_vmamba")
    save_for_hf(backbone, tmp_path)
    cfg["model"]["start"] = str(tmp_path / "model.safetensors")
    model: Any = build_model({**cfg, "model": {**cfg["model"], "in_chans": 3}}, data)
    own = dict(model.backbone.model.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in backbone.named_parameters() if name in own)
    assert len(own) > 20 and model(torch.zeros(1, 3, 40, 70)).shape == (1, 3, 40, 70)
    with pytest.raises(UsageError, match=r"model.num_classes=7, but the data .* have 3 classes"):
        build_model({**cfg, "model": {**cfg["model"], "num_classes": 7}}, data)
    with pytest.raises(UsageError, match="task=segment needs a model such as unet"):
        build_model({**cfg, "model": {"model_name": "test_vmamba"}}, data)


SMALL = [
    next(name for name in family.facts if name.startswith("test_"))
    for family in FAMILIES.values()
    if family.task == "segmentation"
]


@pytest.mark.parametrize("name", SMALL)
def test_every_model_takes_the_settings_of_the_trainer(name: str) -> None:
    cfg = settings(f"model={name}", "model.drop_rate=0.5", "model.drop_path_rate=0.3")
    model = build_model(cfg, build_data(cfg))
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout2d)} == {0.5}
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.3)
    x = torch.randn(1, 1, 64, 64)
    assert not torch.equal(model.train()(x), model(x))
    for rate in ("drop_rate", "drop_path_rate"):
        with pytest.raises(ValueError, match=r"rate in 0\.\.1|between 0 and 1"):
            timm.create_model(name, **{rate: 1.5})


@pytest.mark.parametrize("name", ["test_swin_umamba_d", "test_u_mamba"])
def test_deep_supervision(name: str) -> None:
    """All heads take part in the loss."""
    cfg = settings(f"model={name}", "model.deep_supervision=true")
    data = build_data(cfg)
    model, loss = build_model(cfg, data), build_loss(cfg, data)[1]
    image, mask = data.train[0, 0]
    outputs = in_float32(model(image[None]))
    assert len(outputs) == {"test_swin_umamba_d": 3, "test_u_mamba": 2}[name]
    loss(outputs, mask[None]).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    with pytest.raises(UsageError, match="deep_supervision"):
        build_model({**cfg, "model": {**cfg["model"], "model_name": "test_unet"}}, data)


def test_classes_in_another_order() -> None:
    data = drawn_shapes(count=4)
    other = numbered_as(data, ("grass", "gravel", "brick"), "a model")
    assert data.pixels is not None and other.pixels is not None
    assert other.pixels.tolist() == data.pixels[[2, 0, 1]].tolist()
    before, after = data.val[0][1], other.val[0][1]
    assert torch.equal(after, torch.tensor([1, 2, 0])[before])


def test_shapes_are_the_same_for_the_same_key() -> None:
    data = drawn_shapes(32, 4, seed=5)
    image, mask = data.train[1, 2]
    assert image.shape == (1, 32, 32) and set(mask.unique().tolist()) <= {0, 1, 2} and len(mask.unique()) > 1
    assert torch.equal(image, data.train[1, 2][0]) and not torch.equal(image, data.train[2, 2][0])
    for options in ({"img_size": 8}, {"count": 0}, {"aug": {"hflip": 1}}):
        with pytest.raises(UsageError):
            drawn_shapes(**options)
