"""A random split stays what it was: other images, other fractions, another order, an older run."""

import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from trainer_helpers import composed, make_images

from vimzoo import eval as eval_command
from vimzoo.data import degraded_folder, image_folder, paired_folder
from vimzoo.data.splits import keys, split_by_name, stratified_split
from vimzoo.engine import launch, loop
from vimzoo.engine.finished import run_settings
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

WORDS = [
    "model=timm", "model.model_name=test_resnet", "data=folder", "data.img_size=16", "data.batch_size=8",
    "data.workers=0", "run.device=cpu", "run.ema=null", "run.epochs=1",
]  # fmt: skip


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def names(data):
    """File names of training, validation and test."""
    return [
        {str(part.reader.filename(index)) for index in part.indices}
        for part in (data.train.images, data.val, data.test)
    ]


def split(files, labels=None, val=0.1, test=0.1):
    labels = np.zeros(len(files), dtype=int) if labels is None else labels
    parts = split_by_name([PurePosixPath(name) for name in files], labels, val, test)
    return [{files[index] for index in part} for part in parts]


def test_hashes_are_the_same_on_every_machine() -> None:
    """Written down, so that a change of the hash, which would move every split, is noticed."""
    assert (
        keys([PurePosixPath("cat/001.jpg")]).tolist()
        == keys([PurePosixPath("cat/001.png")]).tolist()
        == [-7735608323877326368]
    )
    assert keys([PurePosixPath("caf\u00e9")]).tolist() == keys([PurePosixPath("cafe\u0301")]).tolist()


def test_shares_are_met_on_average_and_classes_are_never_empty() -> None:
    files = [f"{number:05}.jpg" for number in range(20000)]
    train, val, test = split(files, val=0.1, test=0.2)
    assert (
        abs(len(test) - 4000) < 200
        and abs(len(val) - 2000) < 150
        and len(train) + len(val) + len(test) == 20000
    )
    for size in range(3, 12):
        for start in range(40):
            parts = split(files[start : start + size], val=0.01, test=0.01)
            assert all(parts) and sum(map(len, parts)) == size
    with pytest.raises(UsageError, match=r"class 0 has 2 images, too few .* expected at least 3"):
        split(files[:2])


def test_added_images_move_none_from_training_to_the_others() -> None:
    """In any order of coming, for classes so small that a part takes its nearest image."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        files = [f"{number}.jpg" for number in rng.choice(10**6, 30, replace=False)]
        before: set[str] = set()
        for count in range(8, 30, 3):
            train, val, test = split(sorted(files[:count]))
            assert not before & (val | test)
            before = train


def test_a_folder_that_grows_keeps_its_split(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"a": 40, "b": 40})
    before = names(image_folder(str(root), test_fraction=0.4, img_size=16))
    for folder in "ab":
        shutil.copy(root / folder / "0.jpg", root / folder / "0_first.jpg")
    after = names(image_folder(str(root), test_fraction=0.4, img_size=16))
    assert all(old <= new for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("source", [paired_folder, degraded_folder])
def test_pairs_keep_their_split_too(source: Any, tmp_path: Path) -> None:
    folders = ("low", "high") if source is paired_folder else (".",)
    options = {"crop": 8} | ({} if source is paired_folder else {"sigma": 25.0})
    pixels = np.zeros((16, 16, 3), np.uint8)

    def held_out(count):
        for folder in folders:
            (tmp_path / folder).mkdir(exist_ok=True)
            for number in range(count):
                Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
        data = source(str(tmp_path), val_fraction=0.2, test_fraction=0.2, **options)
        return (
            set(data.train.pairs.high),
            {*data.val.pairs.high, *data.test.pairs.high},
            data.record()["members"],
        )

    train, held, _ = held_out(30)
    more, other, members = held_out(40)
    assert train <= more and held <= other and len(members["train"]) == len(more)


def test_a_run_goes_on_with_more_images_but_not_with_other_fractions(
    tmp_path: Path, quiet: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_images(tmp_path / "photos", {"a": 30, "b": 30})
    words = [*WORDS, f"data.root={root}", "data.test_fraction=0.2"]
    launch(composed(*words), tmp_path / "run")
    assert eval_command.evaluation([str(tmp_path / "run")]).get("trained_on") is None
    capsys.readouterr()
    everything = eval_command.evaluation([str(tmp_path / "run"), "data.test_fraction=1"])
    trained = len(image_folder(str(root), test_fraction=0.2).train)
    assert everything["trained_on"] == trained
    assert f"{trained} of 60 test images are ones that" in capsys.readouterr().err
    copied = [str(tmp_path / "run"), f"data.root={tmp_path / 'moved'}", "data.test_fraction=1"]
    shutil.copytree(root, tmp_path / "moved")
    assert "trained_on" not in eval_command.evaluation(copied)  # may be other images of these names
    root.rename(tmp_path / "away")
    assert eval_command.evaluation(copied)["trained_on"] == trained
    assert "has trained on by their names; " in capsys.readouterr().err
    (tmp_path / "away").rename(root)
    on = [f"resume={tmp_path / 'run'}", "run.epochs=2"]
    with pytest.raises(UsageError, match=r"validation and test images are ones that the run has trained on"):
        launch(composed(*words, *on, "data.test_fraction=0.5"), tmp_path / "other")
    for number in range(30, 40):
        shutil.copy(root / "a/0.jpg", root / f"a/{number}.jpg")
    launch(composed(*words, *on), tmp_path / "more")
    assert (
        "training images are new and 0 are gone: training continues with the present images"
        in capsys.readouterr().err
    )


def test_in_the_middle_of_an_epoch_images_must_stay(
    tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_helpers import stopping

    from vimzoo.engine import Stopped

    root = make_images(tmp_path / "photos", {"a": 20, "b": 20})
    words = [*WORDS, f"data.root={root}"]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "train_step", stopping(2))
        launch(composed(*words), tmp_path / "run")
    for number in range(20, 30):
        shutil.copy(root / "a/0.jpg", root / f"a/{number}.jpg")
    with pytest.raises(UsageError, match=r"new and 0 are gone, in the middle of an epoch"):
        launch(composed(*words, f"resume={tmp_path / 'run'}"), tmp_path / "other")


def test_an_older_run_keeps_its_split(tmp_path: Path) -> None:
    """Its config.yaml has no ``data.split``: images are drawn from the order of files as they were then."""
    root = make_images(tmp_path / "photos", {"a": 20, "b": 20})
    cfg = composed(*WORDS, f"data.root={root}")
    assert cfg["data"].pop("split") == "names" and cfg["data"].pop("upright")
    del cfg["aug"]["transform"]["ratio"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(cfg))
    old = run_settings(tmp_path)
    assert old["data"]["split"] == "order" and old["aug"]["transform"]["ratio"] == [3 / 4, 4 / 3]
    expected = stratified_split(np.repeat([0, 1], 20), 0.1, 0.1)
    data = image_folder(str(root), split="order")
    assert all(
        np.array_equal(part.indices, e)
        for part, e in zip((data.train.images, data.val, data.test), expected, strict=True)
    )
    with pytest.raises(UsageError, match=r"`split`=random: expected one of names, order"):
        image_folder(str(root), split="random")
    held = keys([path.relative_to(root) for path in data.val.files()])
    assert torch.equal(data.record()["members"]["val"], torch.from_numpy(held))
