"""What the folders of an image folder mean, and that nothing of them is left out in silence."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from trainer_helpers import make_images

from vimzoo import predict
from vimzoo.data import image_folder
from vimzoo.data.images import files
from vimzoo.data.images.files import find_pictures, natural_key
from vimzoo.errors import UsageError


def opened(root, layout, **options):
    return image_folder(str(make_images(root, dict.fromkeys(layout, 12), size=16)), img_size=16, **options)


def sizes(data):
    return len(data.train), len(data.val), None if data.test is None else len(data.test)


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        (["cat/2021", "cat/2022", "dog/2021", "dog/2022"], "cat dog"),
        (["cat", "cat/kittens", "dog"], "cat dog"),
        (["cat/images", "dog/pictures"], "cat dog"),
        (["photos/cat", "photos/dog"], "cat dog"),
        (["all/photos/cat/a", "all/photos/dog/a"], "cat dog"),
        (["car", "Train", "bus"], "bus car Train"),
        (["img10", "img9", "IMG1"], "IMG1 img9 img10"),
        (
            ["\u00b2", "chat=chien,#1", "\u043a\u043e\u0448\u043a\u0430"],
            "chat=chien,#1 \u00b2 \u043a\u043e\u0448\u043a\u0430",
        ),
    ],
)
def test_outermost_folders_are_classes(tmp_path: Path, layout: Any, classes: Any) -> None:
    data = opened(tmp_path, layout)
    assert data.classes == tuple(classes.split(" ")) and sum(sizes(data)) == 12 * len(layout)
    assert classes.replace(" ", ", ") in data.notes[0]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (["train/a", "train/b", "val/a", "val/b"], (24, 24, None)),
        (["Train/a", "Train/b", "Val/a", "Val/b", "Test/a"], (24, 24, 12)),
        (["training/a/x", "training/b/x", "dev/a/x", "TESTING/b/y"], (24, 12, 12)),
        (["all/train/a", "all/train/b", "all/valid/a"], (24, 12, None)),
        (["train/a", "train/b", "val/a", "docs"], (24, 12, None)),
    ],
)
def test_splits_are_known_by_their_names(tmp_path: Path, layout: Any, expected: Any) -> None:
    data = opened(tmp_path, layout)
    assert data.classes == ("a", "b") and sizes(data) == expected
    assert any("is train" in note for note in data.notes)
    assert any("docs (12)" in note for note in data.notes) == ("docs" in layout)


def test_a_test_folder_is_never_mixed_with_training(tmp_path: Path) -> None:
    """Validation images then come out of training."""
    data = opened(tmp_path, ["Training/a", "Training/b", "Testing/a", "Testing/b"])
    train, val, test = sizes(data)
    assert test == 24 and train + val == 24 and val > 0
    assert all("Testing" in str(path) for path in data.test.files())
    assert not any("Testing" in str(path) for path in [*data.train.images.files(), *data.val.files()])
    assert "validation images are held out of Training/" in data.notes


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (["pets/cat", "pets/dog", "plants/rose"], r" pets, plants .* classes cat, dog, rose; expected `class_folders`"),
        (["seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b"], r"in two ways: seg_test, seg_train as splits"),
        (["train/a", "train/b", "Training/a", "val/a"], r"expected one folder for train"),
        (["train/a", "cat", "dog"], r"in two ways: train as a split beside other folders \(cat, dog\)"),
        (["val/a", "test/b"], r"found test and val/ without its counterpart"),
        (["train", "test"], r"images outside any class folder, such as 0.jpg"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, layout: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, layout)


def test_the_reading_can_be_chosen(tmp_path: Path) -> None:
    layout = ["pets/cat", "pets/dog", "plants/rose"]
    assert opened(tmp_path / "1", layout, class_folders="top").classes == ("pets", "plants")
    assert opened(tmp_path / "2", layout, class_folders="leaf").classes == ("cat", "dog", "rose")
    with pytest.raises(UsageError, match=r"`class_folders`=inner: expected `None`, top or leaf"):
        image_folder(str(tmp_path), class_folders="inner")


def test_hidden_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 12, "dog": 12, ".ipynb_checkpoints": 4, "__MACOSX": 2})
    (root / "cat/._0.jpg").write_bytes(b"Mac OS X")
    (root / "dog/.DS_Store").write_bytes(b"")
    data = image_folder(str(root), img_size=16)
    assert data.classes == ("cat", "dog") and sum(sizes(data)) == 24
    assert "left out: 4 hidden files or folders" in data.notes


def test_formats_are_read_or_counted(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 3, "dog": 3})
    picture = Image.open(root / "cat/0.jpg")
    suffixes = ("webp", "avif", "tif", "TIFF", "bmp", "gif", "png", "JFIF", "ppm", "tga", "jp2")
    for suffix in suffixes:
        picture.save(root / f"cat/more.{suffix}", "JPEG" if suffix == "JFIF" else None)
    for name in ("a.orf", "b.orf", "list.txt", "README"):
        (root / "dog" / name).write_bytes(b"")
    data = image_folder(str(root), img_size=16, test_fraction=1)
    assert len(data.test) == 6 + len(suffixes)
    assert [data.test[i][0].shape for i in range(len(data.test))] == [(3, 16, 16)] * len(data.test)
    assert not data.unreadable() and "(.orf 2, .txt 1, without suffix 1)" in data.notes[-1]


def test_formats_without_their_package_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no pictures then, so that a folder that holds some can be used all the same."""
    known = set(files.readable_suffixes())
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    found = set(files.readable_suffixes())
    assert not {".heic", ".exr", ".jxl"} & found and {".jpg", ".png", ".tif", ".avif"} <= found < known


def test_training_and_prediction_find_the_same_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through links too, of which one leads back and one to nothing."""
    root, linked = make_images(tmp_path / "photos", {"c0": 5, "c1": 5}), tmp_path / "linked"
    linked.mkdir()
    for name in ("c0", "c1"):
        (linked / name).symlink_to(root / name)
    (root / "c0/back").symlink_to(linked)
    (root / "c1/nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    (root / "c1/notes.txt").write_bytes(b"")
    data = image_folder(str(linked), img_size=16, test_fraction=1, class_folders="top")
    files = predict.image_files([linked])
    assert data.test.files() == files and len(files) == 10
    assert "links to nothing or devices 1, .txt 1" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 3, "dog": 3})
    (root / "dog").chmod(0)
    with pytest.raises(UsageError, match=r"dog: cannot be listed"):
        image_folder(str(root))
    (root / "dog").chmod(0o700)


def test_names_are_sorted_naturally_and_never_as_equal() -> None:
    names = ["a10", "A9", "a9", "\u00b2", "1", "01"]
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)
    assert sorted(["a10", "a9"], key=natural_key) == ["a9", "a10"]


def test_pictures_that_come_later_are_found(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 3, "dog": 3})
    shutil.copy(root / "cat/0.jpg", root / "cat/new.PNG")
    assert "cat/new.PNG" in find_pictures(root).files
