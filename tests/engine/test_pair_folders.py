"""Folders of pairs and of clean photographs: layouts, splits, and errors that name what is wrong."""

import shutil
from pathlib import Path

import pytest
import torch
from pair_files import make_photo

from vimzoo.data import bundled_photos, degraded_folder, paired_folder
from vimzoo.data.pairs.crops import image_size
from vimzoo.data.pairs.degradations import imresize, to_image
from vimzoo.data.pairs.photos import PHOTOS, photo_files
from vimzoo.errors import UsageError
from vimzoo.metrics import to_8bit


def test_photographs_come_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is there without pooch, which could download it; no photograph is in two splits."""
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    files = [path for split in PHOTOS for path in photo_files(split)]
    assert len({path.name for path in files}) == len(files) == sum(map(len, PHOTOS.values()))
    assert all(min(image_size(path)) >= 300 for path in files)
    data = bundled_photos(sigma=25)
    assert [data.test[i][1].shape for i in range(2)] == [(3, 300, 451), (3, 400, 600)]


def test_missing_photographs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHOTOS, "val", ("sklearn/datasets/images/moon.jpg",))
    with pytest.raises(UsageError, match=r"this version of sklearn lacks datasets/images/moon.jpg"):
        bundled_photos(sigma=25)
    monkeypatch.setitem(PHOTOS, "val", ("no_such_package/moon.jpg",))
    with pytest.raises(
        UsageError, match=r"need no_such_package; install it with: pip install 'vimzoo\[train\]'"
    ):
        bundled_photos(sigma=25)


def test_pairs_are_found_by_name_and_cut_to_size(pairs: Path) -> None:
    data = paired_folder(str(pairs), crop=16, val_fraction=0.2, test_fraction=0.2)
    assert data.scale == 2 and data.input_size == (3, 8, 8) and data.classes == ()
    low, high = data.val[0]
    assert low.shape == (3, 20, 25) and high.shape == (3, 40, 50)
    assert torch.equal(low, to_image(to_8bit(imresize(high, 0.5))))
    assert paired_folder(str(pairs), crop=16, in_chans=1).train[0, 0][0].shape == (1, 8, 8)


def test_divided_folders(pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "divided"
    root.mkdir()
    pairs.rename(root / "train")
    with pytest.raises(UsageError, match="found train/ without its counterpart; expected DIR/low"):
        paired_folder(str(root), crop=16)
    for kind, height in (("high", 16), ("low", 16)):
        make_photo(root / "val" / kind / "a.png", height, 16)
    with pytest.raises(UsageError, match=r"images of scales \[1, 2\]"):
        paired_folder(str(root), crop=16)
    make_photo(root / "val" / "low" / "a.png", 8, 8)
    data = paired_folder(str(root), crop=16)
    assert (len(data.train.pairs), len(data.val), data.test) == (5, 1, None)
    assert data.notes == ("train/ is train, val/ is val",)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    (
        (("Train", "Val"), (5, 5, None)),
        (("TRAINING", "dev", "Testing"), (5, 5, 5)),
        (("all/train", "all/Valid"), (5, 5, None)),
        (("train", "Test"), (4, 1, 5)),
    ),
)
def test_splits_are_known_by_their_names(pairs: Path, folders: tuple[str, ...], sizes: tuple) -> None:
    """As in class folders, for pairs and for clean images; none of a split is held out again."""
    root = pairs.parent / "divided"
    for folder in folders:
        shutil.copytree(pairs, root / folder)
    clean_root = pairs.parent / "divided_clean"
    for folder in folders:
        shutil.copytree(pairs / "high", clean_root / folder)
    for data in (paired_folder(str(root), crop=16), degraded_folder(str(clean_root), sigma=5, crop=16)):
        assert (len(data.train.pairs), len(data.val), data.test and len(data.test)) == sizes
        first, last = Path(folders[0]), Path(folders[-1])
        assert all(first.name in path.parts for path in data.train.pairs.high)
        if data.test is not None:
            assert all(last.name in path.parts for path in data.test.pairs.high)
            held = "validation images are held out of train/"
            assert (held in data.notes) == (len(folders) == 2)
        assert not set(data.train.pairs.high) & set(data.val.pairs.high)
        assert any(f"{first.name}/ is train" in note for note in data.notes)


@pytest.mark.parametrize(
    ("folders", "says"),
    (
        (("train", "cats"), r"in two ways: train as a split beside other folders \(cats\), or all of them as one set"),
        (("train", "Training", "val"), r"expected one folder for train"),
        (("DIV2K_train_HR", "DIV2K_valid_HR"), r"DIV2K_train_HR, DIV2K_valid_HR as splits, or as one set of images"),
        (("val", "test"), r"found test and val/ without its counterpart; expected images in DIR"),
    ),
)  # fmt: skip
def test_folders_that_may_be_splits(tmp_path: Path, folders: tuple[str, ...], says: str) -> None:
    for folder in folders:
        make_photo(tmp_path / folder / "a.png", 24, 24)
    with pytest.raises(UsageError, match=says):
        degraded_folder(str(tmp_path), sigma=5, crop=16)


def test_a_share_of_nothing_is_no_test(clean: Path) -> None:
    data = degraded_folder(str(clean), sigma=5, crop=16, test_fraction=0)
    assert data.test is None and len(data.train.pairs) + len(data.val) == 10


def test_unusable_pairs_are_named(pairs: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no folder .*high/low or lr, lq, .*; expected DIR/low with DIR/high"
    ):
        paired_folder(str(pairs / "high"))
    (pairs / "low" / "3x2.png").rename(pairs / "low" / "other.png")
    with pytest.raises(UsageError, match=r"files without a partner \(2\): low/other.png, high/3.png"):
        paired_folder(str(pairs))
    (pairs / "low" / "other.png").rename(pairs / "low" / "3x2.png")
    make_photo(pairs / "low" / "4x2.png", 20, 24)
    with pytest.raises(UsageError, match=r"4x2.png is \(20, 24\) and .*4.png \(41, 51\); expected 2 times"):
        paired_folder(str(pairs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "`root` is not set"),
        ({"root": "nowhere"}, "`root`=nowhere: no such folder"),
        ({"crop": 44}, "`crop`=44: .* is only 41 x 50 pixels"),
        ({"scale": 2, "crop": 15}, "`crop`=15: expected a positive multiple of the scale, 2"),
        ({"scale": 2, "crop": 16, "eval_crop": 1}, "`eval_crop`=1"),
        ({"crop": 16, "crops": 0}, "`crops`=0"),
        ({"crop": 16, "in_chans": 4}, "`in_chans`=4"),
        ({"crop": 16, "aug": {"scale": 1}}, "`aug`: .* take flip and rotate, not scale"),
        ({"crop": 16, "val_fraction": 0.6, "test_fraction": 0.6}, "below 1, also in sum"),
    ],
)
def test_unusable_requests_are_named(clean: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        degraded_folder(**{"root": str(clean), "sigma": 25, **options})
