"""Crops that grow in the course of a run: the batches of each stage, a run through them, and going on within one."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_helpers import composed, same_tensors, stopping

from vimzoo.data import StageBatches, degraded_folder, paired_folder, train_loader
from vimzoo.data.batches.stages import Stage, Stages, parsed_stages
from vimzoo.engine import TASKS, Stopped, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.reports import report
from vimzoo.errors import UsageError

STAGES = [
    {"epochs": 1, "crop": 16, "batch_size": 8},
    {"epochs": 2, "crop": 24, "batch_size": 4},
    {"epochs": 1, "crop": 32, "batch_size": 2},
]
WORDS = "[{epochs:1,crop:16,batch_size:8},{epochs:2,crop:24,batch_size:4},{epochs:1,crop:32,batch_size:2}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images to train on and two to validate, no side shorter than 32 pixels."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    for split, count in (("train", 7), ("val", 2)):
        (root / split).mkdir()
        for index in range(count):
            pixels = rng.randint(0, 256, (32 + index, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the runs."""
    monkeypatch.setattr(report, "curves", lambda *_: None)
    monkeypatch.setitem(TASKS, "restore", replace(TASKS["restore"], pictures=lambda *_: None))


def asked(folder: Path, *overrides: str) -> dict:
    """A run of five epochs of three updates; the last stage goes on for two."""
    return composed(
        "experiment=photos_denoise", "data=degraded_folder", f"data.root={folder}", "data.workers=0",
        "data.sigma=25", "data.crops=24", "data.batch_size=8", f"data.stages={WORDS}", "data.eval_crop=16",
        "model.depths=[1]", "run.epochs=5", "run.device=cpu", *overrides,
    )  # fmt: skip


def keys(stages: Stages, epoch: int, start: int = 0, **options: int) -> list[list[tuple[int, ...]]]:
    batches = StageBatches(stages, seed=3, **options)
    batches.epoch, batches.start = epoch, start
    assert len(batches) == stages.updates
    return list(batches)


def test_batches_follow_the_stages() -> None:
    """As many updates in every epoch; the crops of the whole run are numbered without a gap."""
    stages, seen = parsed_stages(STAGES, crops=26, scale=1), 0
    assert stages.updates == 3
    for epoch, (size, images) in enumerate([(16, 8), (24, 4), (24, 4), (32, 2), (32, 2)]):
        batches = keys(stages, epoch)
        assert [len(batch) for batch in batches] == [images] * 3
        flat = [key for batch in batches for key in batch]
        assert {(key[0], *key[2:]) for key in flat} == {(epoch, size, size)}
        assert sorted(key[1] for key in flat) == list(range(seen, seen + 3 * images))
        assert [key[1] for key in flat] != sorted(key[1] for key in flat)
        assert batches == keys(stages, epoch) and batches[1:] == keys(stages, epoch, start=1)
        parts = [keys(stages, epoch, rank=rank, world=2) for rank in range(2)]
        assert [a + b for a, b in zip(*parts, strict=True)] == batches
        seen += 3 * images


def test_crops_have_the_size_of_their_key(folder: Path) -> None:
    data = degraded_folder(str(folder), sigma=25, scale=2, crops=24, stages=STAGES)
    assert data.input_size == (3, 8, 8)
    loader = train_loader(data, 8, seed=0)
    for epoch, size in enumerate((16, 24, 24, 32, 32)):
        loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        for low, high in loader:
            assert low.shape[2:] == (size // 2, size // 2) and high.shape[2:] == (size, size)
    assert not torch.equal(data.train[3, 50, 32, 32][1], data.train[4, 50, 32, 32][1])


def test_small_epochs_reach_every_image_in_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were indices of each epoch to begin at 0, six crops an epoch would stay with six images."""
    data = degraded_folder(
        str(folder), sigma=25, crops=28, stages=[{**STAGES[0], "batch_size": 14}, STAGES[2]]
    )
    read: list[int] = []
    pixels = data.train.pairs.pixels
    monkeypatch.setattr(
        data.train.pairs, "pixels", lambda index, *rest: (read.append(index), pixels(index, *rest))[1]
    )
    loader = train_loader(data, 14, seed=0)
    for epoch in range(1, 8):
        loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        list(loader)
    assert np.bincount(read).tolist() == [4] * 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": []}, r"`stages`=\[\]: expected at least one stage"),
        ({"stages": [32]}, r"`stages`\[0\]=32: expected epochs, crop, batch_size"),
        ({"stages": [{"epochs": 1, "crop": 16}]}, r"`stages`\[0\]=.*: expected epochs, crop, batch_size"),
        ({"stages": [{**STAGES[0], "epochs": 0}]}, r"`stages`\[0\]=.*whole numbers from 1 on"),
        ({"stages": [{**STAGES[0], "crop": 16.5}]}, r"`stages`\[0\]=.*whole numbers from 1 on"),
        (
            {"scale": 2, "stages": [STAGES[0], {**STAGES[1], "crop": 25}]},
            r"`stages`\[1\].crop=25: .* scale, 2",
        ),
        (
            {"stages": [*STAGES, {**STAGES[2], "crop": 34}]},
            r"`stages`: crops of 34 pixels: .*0.png is only 32 x 40",
        ),
        ({"crop": 24}, "`crop`=24: expected that of the first of `stages`, 16"),
        ({"crops": 7}, "`crops`=7: expected at least the first stage's batch_size, 8"),
    ],
)
def test_unusable_stages_are_named(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        degraded_folder(**{"root": str(folder), "sigma": 25, "stages": STAGES, **options})


def test_batches_must_agree_and_be_shared_evenly(folder: Path) -> None:
    data = degraded_folder(str(folder), sigma=25, crops=24, stages=STAGES)
    with pytest.raises(UsageError, match=r"`batch_size`=16: expected that of the first of `stages`, 8"):
        train_loader(data, 16, seed=0)
    with pytest.raises(UsageError, match=r"`stages`\[2\].batch_size=2: expected a multiple of `world`=4"):
        train_loader(data, 8, seed=0, world=4)


def test_pairs_have_stages_too(folder: Path, tmp_path: Path) -> None:
    for kind in ("low", "high"):
        (tmp_path / kind).symlink_to(folder / "train")
    data = paired_folder(str(tmp_path), crops=24, stages=STAGES)
    assert data.batching == Stages(tuple(Stage(**stage) for stage in STAGES), 3)
    low, high = data.train[1, 30, 24, 24]
    assert torch.equal(low, high) and low.shape == (3, 24, 24)


def test_a_run_goes_through_its_stages(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(asked(folder), tmp_path / "stages")
    said = capsys.readouterr().out
    assert (
        "sizes  3 updates an epoch: 8 crops of 16 px for 1 epochs, 4 crops of 24 px for 2 epochs, 2 crops"
        in said
    )
    rows = list(csv.DictReader((tmp_path / "stages/sizes.csv").open()))
    assert [list(row.values()) for row in rows] == [
        ["32", "32", "2", "", "6"], ["24", "24", "4", "", "6"], ["16", "16", "8", "", "3"],
    ]  # fmt: skip
    launch(asked(folder, "data.stages=null", "data.crop=16"), tmp_path / "plain")
    staged, plain = (checkpoint.read(tmp_path / name / "last.pt")["history"] for name in ("stages", "plain"))
    assert [row["lr"] for row in staged] == [
        row["lr"] for row in plain
    ]  # the schedule knows nothing of stages
    assert (
        staged[0]["train_loss"] == plain[0]["train_loss"]
        and staged[1]["train_loss"] != plain[1]["train_loss"]
    )


def test_a_run_stopped_within_a_stage_goes_on_bitwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(asked(folder), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop_module, "train_step", stopping(8))
        launch(asked(folder), tmp_path / "cut")
    last = tmp_path / "cut/last.pt"
    with pytest.raises(UsageError, match=r"middle of epoch 3, which needs data.stages="):
        other = WORDS.replace("epochs:2", "epochs:3")
        launch(asked(folder, f"resume={last}", f"data.stages={other}"), tmp_path / "other")
    launch(asked(folder, f"resume={last}"), tmp_path / "on")
    whole, on = (checkpoint.read(tmp_path / name / "last.pt") for name in ("whole", "on"))
    for part in ("model", "model_ema", "optimizer", "sizes"):
        assert same_tensors(whole[part], on[part]), part
