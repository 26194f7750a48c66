"""Splits, seeded augmentation, folder layouts and their errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import create_transform
from trainer_helpers import composed, make_images

from vimzoo.data import bundled_digits, eval_loader, image_folder, stratified_split, train_loader
from vimzoo.data.sources.digits import warp
from vimzoo.errors import UsageError

AUG = {"rotate": 10, "shift": 0.1, "scale": 0.1}


def test_split_is_stratified_disjoint_and_fixed() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    train, val, test = stratified_split(labels, 0.1, 0.2)
    assert sorted([*train, *val, *test]) == list(range(160))
    assert np.bincount(labels[test]).tolist() == [20, 10, 2]
    assert np.bincount(labels[val]).tolist() == [10, 5, 1]
    assert all(map(np.array_equal, (train, val, test), stratified_split(labels, 0.1, 0.2)))


def test_digits_in_three_channels_are_grey() -> None:
    one, three = bundled_digits(), bundled_digits(in_chans=3)
    images, grey = three.test[:5][0], one.test[:5][0]
    assert three.input_size == (3, 16, 16) and three.mean == one.mean * 3 and three.std == one.std * 3
    assert torch.equal(images, grey.expand_as(images)) and three.train[0, 0][0].shape == (3, 16, 16)
    with pytest.raises(UsageError, match="`in_chans`=2: expected 1"):
        bundled_digits(in_chans=2)


def test_digits_split_does_not_depend_on_the_seed() -> None:
    one, two = bundled_digits(seed=0, aug=AUG), bundled_digits(seed=1, aug=AUG)
    assert (len(one.train), len(one.val), len(one.test)) == (1259, 179, 359)
    assert torch.equal(one.test.tensors[1], two.test.tensors[1])
    assert not torch.equal(one.train[0, 0][0], two.train[0, 0][0])
    assert one.input_size == (1, 16, 16) and one.val[0][0].shape == (1, 16, 16)


def test_augmentation_depends_on_epoch_and_index_alone() -> None:
    data = bundled_digits(aug=AUG)
    alone = data.train[3, 7][0]
    together = data.train.__getitems__([(3, 1), (3, 7)])[1][0]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert not torch.equal(alone, data.train[4, 7][0])


def test_warp_keeps_a_still_image_and_moves_a_shifted_one() -> None:
    image = torch.rand(1, 1, 8, 8)
    none, one = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(warp(image, 8, none, torch.zeros(1, 2), one), image)
    moved = warp(image, 8, none, torch.tensor([[0.125, 0.0]]), one)
    torch.testing.assert_close(moved[..., :7], image[..., 1:])


def test_loader_order_changes_by_epoch_and_repeats_by_seed() -> None:
    loader = train_loader(bundled_digits(img_size=8), batch_size=100, seed=3, limit=2)
    assert len(loader) == 2
    first = [labels for _, labels in loader]
    assert all(map(torch.equal, first, [labels for _, labels in loader]))
    loader.batch_sampler.epoch = 1
    assert not all(map(torch.equal, first, [labels for _, labels in loader]))


def test_workers_do_not_change_the_batches(images: Path) -> None:
    data = image_folder(str(images), img_size=16, aug={"color_jitter": 0.4}, seed=1)
    alone, helped = (list(train_loader(data, 4, seed=1, workers=n)) for n in (0, 2))
    assert all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, helped, strict=True)
    )


def test_augmenting_leaves_the_global_generators_alone(images: Path) -> None:
    data = image_folder(str(images), img_size=16, aug={"color_jitter": 0.4})
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    data.train[0, 0]
    assert torch.equal(torch.rand(1), expected)


def test_folder_without_splits_is_split(images: Path) -> None:
    data = image_folder(str(images), img_size=16)
    assert len(data.train) + len(data.val) + len(data.test) == 20
    assert data.classes == ("cat", "dog") and data.input_size == (3, 16, 16)
    assert data.train[0, 0][0].shape == data.test[0][0].shape == (3, 16, 16)
    batch, labels = next(iter(eval_loader(data.test, 8)))
    assert batch.shape[1:] == (3, 16, 16) and set(labels.tolist()) == {0, 1}


def test_folder_with_splits_numbers_classes_as_training_does(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"train/a": 2, "train/b": 2, "train/c": 2, "val/c": 2, "val/b": 1})
    data = image_folder(str(root), img_size=16, in_chans=1)
    assert data.test is None and [label for _, label in data.val] == [1, 2, 2]
    assert data.val[0][0].shape == (1, 16, 16) and len(data.mean) == 1


def test_model_size_and_normalisation_are_taken(images: Path) -> None:
    cfg = {"input_size": (3, 24, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    data = image_folder(str(images), pretrained_cfg=cfg)
    assert data.input_size == (3, 24, 32) and data.mean == (0.5, 0.5, 0.5)
    assert data.train[0, 0][0].shape == data.val[0][0].shape == (3, 24, 32)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "no images under"),
        ({"cat": 5}, "has one class .cat.; expected at least two"),
        ({"cat": 5, "dog": 0}, "without images .*dog"),
        ({"cat": 5, "dog": 2}, "class dog has 2 images, too few"),
        ({"train/cat": 2, "train/dog": 2}, "found train/ without its counterpart"),
        ({"train/cat": 2, "train/dog": 2, "val/cow": 1}, "classes that training lacks: cow"),
        ({".": 3}, "outside any class folder"),
    ],
)
def test_unusable_folders_are_named(tmp_path: Path, layout: Any, message: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name, count in layout.items():
        make_images(tmp_path / "made", {name: count})
    if layout:
        (tmp_path / "made").rename(root / "r")
    with pytest.raises(UsageError, match=message):
        image_folder(str(root / "r" if layout else root))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "`root` is not set"),
        ({"root": "nowhere"}, "`root`=nowhere: no such folder"),
        ({"root": ".", "in_chans": 4}, "`in_chans`=4: expected 1"),
    ],
)
def test_unusable_arguments_are_named(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        image_folder(**options)


def test_unknown_augmentation_is_named(images: Path) -> None:
    with pytest.raises(UsageError, match=r"`aug`.*blur"):
        image_folder(str(images), aug={"blur": 1})
    with pytest.raises(UsageError, match="take rotate, shift and scale, not hflip"):
        bundled_digits(aug={"hflip": 0.5})


def test_no_augmentation_is_what_evaluation_sees(images: Path) -> None:
    """In every epoch, also where images keep their shapes; timm's defaults would crop, flip and jitter."""
    for options in ({}, {"sides": [16, 32]}):
        for aug in ({}, None, {"no_aug": True}):
            data = image_folder(str(images), img_size=16, aug=aug, **options)
            shape = (16, 16) if options else ()
            first, second = (data.train[(epoch, 3, *shape)][0] for epoch in (0, 1))
            still = data.train.images.part(np.array([3]))
            still.transform = data.val.transform
            assert torch.equal(first, second) and torch.equal(first, still[0][0])


def test_what_an_augmentation_does_not_name_is_not_done(images: Path) -> None:
    """Only flips: an image is seen in two ways, whose mirror images they are."""
    data = image_folder(str(images), img_size=16, aug={"hflip": 0.5})
    seen = [data.train[epoch, 3][0] for epoch in range(8)]
    different = [seen[0], next(image for image in seen if not torch.equal(image, seen[0]))]
    assert all(any(torch.equal(image, one) for one in different) for image in seen)
    assert torch.equal(different[0].flip(2), different[1])


def test_presets_name_all_that_timm_does(images: Path) -> None:
    """The two presets are what they were when they relied on timm's defaults."""
    for name, named in {
        "light": {"scale": [0.35, 1.0], "hflip": 0.5, "color_jitter": 0.3},
        "imagenet": {
            "color_jitter": 0.3,
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "re_prob": 0.25,
            "re_mode": "pixel",
        },
    }.items():
        aug = composed("data=folder", f"aug={name}")["aug"]["transform"]
        data = image_folder(str(images), img_size=16, aug=aug)
        ours = data.train[1, 3][0]
        options = dict(mean=data.mean, std=data.std, interpolation="bicubic")
        data.train.images.transform = lambda image, _, named=named, options=options: create_transform(
            16, is_training=True, **options, **named
        )(image)
        assert torch.equal(ours, data.train[1, 3][0])


def test_evaluating_everything_does_not_augment(images: Path) -> None:
    for options in ({}, {"split": "order"}):
        data = image_folder(str(images), img_size=16, test_fraction=1, aug={"scale": [0.1, 0.2]}, **options)
        assert len(data.test) == len(data.val) == len(data.train) == 20
        for part in (data.val, data.test):
            assert torch.equal(part[3][0], part[3][0]) and not torch.equal(part[3][0], data.train[0, 3][0])
