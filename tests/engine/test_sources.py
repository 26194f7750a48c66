"""WebDataset shards, Hugging Face data sets, and images that cannot be read."""

import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import composed, make_images

from vimzoo.data import (
    Splits,
    degraded_folder,
    hub_dataset,
    image_folder,
    paired_folder,
    shards,
    train_loader,
)
from vimzoo.data.images.reading import TRIES
from vimzoo.engine import launch
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    return make_images(tmp_path / "folder", {f"{s}/{c}": 4 for s in ("train", "val") for c in ("cat", "dog")})


@pytest.fixture
def packed(folder, tmp_path):
    """The folder's images as two training shards and one for validation, and the names of the classes."""
    root = tmp_path / "packed"
    root.mkdir()
    for split, count in (("train", 2), ("val", 1)):
        files = sorted((folder / split).glob("*/*.jpg"))
        for number in range(count):
            with tarfile.open(root / f"{split}-{number:04}.tar", "w") as archive:
                for place, path in enumerate(files[number::count]):
                    label = str(["cat", "dog"].index(path.parent.name)).encode()
                    for name, content in ((f"{place:03}.jpg", path.read_bytes()), (f"{place:03}.cls", label)):
                        info = tarfile.TarInfo(name)
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def total(images):
    """Sum over (image, class number), which does not depend on their order."""
    return sum(float(image.double().sum()) + 1000 * label for image, label in images)


def test_shards_hold_what_the_folder_holds(folder: Path, packed: Any) -> None:
    loose, tight = image_folder(str(folder), img_size=16), shards(str(packed), img_size=16)
    assert tight.classes == loose.classes and len(tight.train) == len(loose.train) == 8 and tight.test is None
    assert total(tight.val[i] for i in range(8)) == pytest.approx(total(loose.val[i] for i in range(8)))
    assert {label for _, label in (tight.train[0, i] for i in range(8))} == {0, 1}


def test_workers_read_shards_alike(packed: Any) -> None:
    data = shards(str(packed), img_size=16)
    alone, helped = (list(train_loader(data, 4, seed=1, workers=n)) for n in (0, 2))
    assert all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, helped, strict=True)
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "val-0000.tar").unlink(), "no shards for val; expected DIR/"),
        (
            lambda root: (root / "train-0001.tar").write_bytes(b"x" * 2000),
            "train-0001.tar: no readable shard",
        ),
        (
            lambda root: (root / "classes.txt").write_text("cat\n"),
            "classes.txt: 1 names, but the shards have class 1",
        ),
    ],
)
def test_unusable_shards_are_named(packed: Any, spoil: Any, message: str) -> None:
    spoil(packed)
    with pytest.raises(UsageError, match=message):
        shards(str(packed))


def test_a_sample_without_a_class_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/5.jpg"), io.BytesIO())
    (tmp_path / "val-0.tar").write_bytes((tmp_path / "train-0.tar").read_bytes())
    with pytest.raises(
        UsageError, match=r"1 samples lack an image or a class, such as a/5; expected KEY.jpg"
    ):
        shards(str(tmp_path))
    with pytest.raises(UsageError, match=r"`root` is not set; expected `root`=DIR"):
        shards()


def test_held_out_shards_have_the_classes_of_training(packed: Any) -> None:
    (packed / "classes.txt").unlink()
    with tarfile.open(packed / "val-1.tar", "w") as archive:
        for name, content in (("x.jpg", b""), ("x.cls", b"7"), ("._x.jpg", b"Mac OS X")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UsageError, match=r"shards of val have class 7, training has 2 classes \(0, 1\)"):
        shards(str(packed))


def test_hugging_face_data_set(folder: Path, tmp_path: Path) -> None:
    """The library's own reader of image folders, by timm, without a network."""
    pytest.importorskip("datasets")
    data = hub_dataset(str(folder), cache=str(tmp_path / "cache"), img_size=16)
    loose = image_folder(str(folder), img_size=16)
    assert data.classes == ("cat", "dog") and len(data.train) == 8
    assert total(data.val[i] for i in range(8)) == pytest.approx(total(loose.val[i] for i in range(8)))
    with pytest.raises(UsageError, match=r"`name`="):
        hub_dataset(str(folder), val_split="nothing", cache=str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"`name` is not set"):
        hub_dataset()


def test_unreadable_images_are_replaced_counted_and_listed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when worker processes come upon them; above the stated share the run stops."""
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    (folder / "train/cat/1.jpg").write_bytes(b"\xff\xd8torn")
    (folder / "train/dog/2.jpg").write_bytes(b"")
    words = [
        "model=timm",
        "model.model_name=test_vit",
        "data=folder",
        f"data.root={folder}",
        "data.img_size=16",
    ]
    words += ["+model.img_size=16", "data.batch_size=4", "run.epochs=1", "run.device=cpu", "data.workers=1"]
    launch(composed(*words, "data.max_unreadable=0.3"), tmp_path / "out")
    listed = (tmp_path / "out/unreadable.txt").read_text().split()
    assert listed == ["cat/1.jpg", "dog/2.jpg"] and "2 images cannot be read" in capsys.readouterr().out
    with pytest.raises(
        UsageError,
        match=r"2 of 8 images cannot be read, such as cat/1.jpg \(cannot identify .*max_unreadable=0.2",
    ):
        launch(composed(*words, "data.max_unreadable=0.2"), tmp_path / "none")
    assert (tmp_path / "none/unreadable.txt").read_text().split() == listed  # to mend them


def test_an_image_that_is_gone_is_one_that_cannot_be_read(folder: Path) -> None:
    data = image_folder(str(folder), img_size=16, max_unreadable=0.5)
    (folder / "val/cat/1.jpg").unlink()
    assert data.val[1][1] == 0 and data.unreadable() == ["cat/1.jpg"]
    with pytest.raises(UsageError, match=r"`max_unreadable`=2: expected a share from 0 to 1"):
        image_folder(str(folder), max_unreadable=2)


def test_no_images_need_be_held_out_for_a_test(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", {"cat": 5, "dog": 5})
    data = image_folder(str(root), test_fraction=0)
    assert data.test is None and len(data.train) + len(data.val) == 10
    with pytest.raises(UsageError, match=r"`val_fraction`=0, .*expected shares below 1"):
        image_folder(str(root), val_fraction=0)


def test_nothing_readable_stops_at_once(folder: Path) -> None:
    data = image_folder(str(folder), img_size=16)
    for path in (folder / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(OSError, match=f"{TRIES} images in a row cannot be read, from cat/3.jpg on"):
        data.val[3]


@pytest.mark.parametrize("load", [image_folder, shards, paired_folder, partial(degraded_folder, sigma=25.0)])
def test_a_root_may_be_a_path(load: Callable[..., Splits], tmp_path: Path) -> None:
    """As well as text; what is missing is named either way."""
    for root in (tmp_path / "missing", str(tmp_path / "missing")):
        with pytest.raises(UsageError, match="missing: no such folder"):
            load(root)
    if load is image_folder:
        make_images(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
        assert len(load(tmp_path).train) == len(load(str(tmp_path)).train) == 4
