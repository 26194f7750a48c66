"""Images of many sizes: which shapes they get, how batches are made of them, and a run on them."""

import csv
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trainer_helpers import composed, same_tensors, stopping

from vimzoo.data import BucketBatches, Shapes, eval_loader, image_folder, train_loader
from vimzoo.engine import Stopped, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

SIZES = [(30, 60), (45, 45), (64, 32), (50, 40), (33, 120)]  # heights and widths of the files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, 40 training and 10 validation images each, of five sizes."""
    root, rng = tmp_path_factory.mktemp("sizes"), np.random.RandomState(0)
    for split, count in (("train", 40), ("val", 10)):
        for place, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.randint(0, 120, (*SIZES[index % 5], 3), dtype=np.uint8)
                pixels[..., place] += 120
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def asked(folder, *overrides):
    """A run on the folder at several sizes, through a tiny convolutional net."""
    return composed(
        "model=timm", "model.model_name=test_resnet", "data=folder", f"data.root={folder}", "data.workers=0",
        "data.img_size=32", "data.sides=[16,32,48]", "data.step=8", "data.batch_size=8", "run.epochs=2",
        "run.device=cpu", *overrides,
    )  # fmt: skip


@pytest.mark.parametrize("step", [8, 16, 32])
def test_shapes_keep_area_and_aspect(step: Any) -> None:
    shapes = Shapes((160, 224, 320), step, max_aspect=2.0)
    for side in shapes.sides:
        made = [shapes.shape(kind, side) for kind in range(2 * shapes.oblong + 1)]
        assert made[shapes.oblong] == (side, side)
        assert [shape[::-1] for shape in made] == made[::-1]  # lying ones are upright ones, turned
        for kind, (height, width) in enumerate(made):
            assert height % step == width % step == 0
            assert abs(height - side * 2 ** ((4 - kind) / 8)) <= step / 2
            assert abs(width - side * 2 ** ((kind - 4) / 8)) <= step / 2


def test_an_image_gets_the_nearest_kind() -> None:
    shapes = Shapes((224,), max_aspect=2.0)
    kinds = shapes.kinds(np.array([[100, 100], [100, 200], [200, 100], [100, 119], [100, 900], [9, 10]]))
    assert kinds.tolist() == [4, 8, 0, 5, 8, 5]
    assert set(Shapes((224,), max_aspect=1).kinds(np.array([[1, 9], [9, 1]]))) == {0}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=60, max_size=400), st.integers(0, 5),
    st.sampled_from([400, 1000, 3000]), st.sampled_from([1, 2]),
)  # fmt: skip
def test_batches_keep_their_promises(kinds: Any, seed: Any, tokens: Any, world: Any) -> None:
    """One shape each, within the budget, no image twice, few left out; alike in every epoch but for the images."""
    shapes, kinds = Shapes((64, 128), step=16, max_aspect=2.0), np.array(kinds)
    ranks = [BucketBatches(shapes, kinds, tokens, seed, rank=rank, world=world) for rank in range(world)]
    seen = []
    for epoch in range(2):
        for batches in ranks:
            batches.epoch = epoch
        whole = [list(chain(*parts)) for parts in zip(*map(list, ranks), strict=True)]
        assert len(whole) == len(ranks[0])
        for batch in whole:
            (size,) = {key[2:] for key in batch}
            assert len(batch) % (2 * world) == 0
            assert len(batch) * shapes.tokens(size) <= tokens < (len(batch) + 2 * world) * shapes.tokens(size)
        indices = [key[1] for batch in whole for key in batch]
        assert len(set(indices)) == len(indices) and all(key[0] == epoch for batch in whole for key in batch)
        assert len(kinds) - len(indices) < tokens / 48  # fewer than fill a batch of the largest shapes
        seen.append((Counter((key[2:], len(batch)) for batch in whole for key in batch[:1]), indices))
    assert seen[0][0] == seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_most_images_come_in_their_own_kind() -> None:
    shapes, kinds = Shapes((64, 128), step=1), np.random.RandomState(0).randint(0, 9, 3000)
    batches = list(BucketBatches(shapes, kinds, 256_000, seed=0))
    wrong = sum(shapes.kinds(np.array([key[2:]]))[0] != kinds[key[1]] for batch in batches for key in batch)
    assert wrong < 0.1 * len(kinds)
    sides = Counter(round((key[2] * key[3]) ** 0.5 / 64) for batch in batches for key in batch[:1])
    assert abs(sides[1] - sides[2]) < 0.2 * len(batches)  # each side has its share of the batches


def test_an_epoch_begun_goes_on_where_it_stood() -> None:
    batches = BucketBatches(Shapes((64, 128)), np.arange(300) % 9, 1000, seed=1)
    whole = list(batches)
    batches.start = 3
    assert list(batches) == whole[3:]


def test_images_come_in_the_size_of_their_batch(folder: Path) -> None:
    data = image_folder(str(folder), img_size=32, sides=[16, 32], step=8)
    loader = train_loader(data, 4, seed=0)
    for keys, (images, labels) in zip(loader.batch_sampler, loader, strict=True):
        assert images.shape == (len(keys), 3, *keys[0][2:]) and len(labels) == len(keys)
    sizes = {keys[0][2:] for keys in loader.batch_sampler}
    assert {round((height * width) ** 0.5 / 16) for height, width in sizes} == {1, 2} and len(sizes) > 2


def test_evaluation_keeps_the_shape_of_every_image(folder: Path) -> None:
    data = image_folder(str(folder), img_size=32, sides=[16, 32], step=8, max_aspect=4.0)
    batches = list(eval_loader(data.val, 6))
    assert sum(len(images) for images, _ in batches) == 20
    shapes = [tuple(images.shape[2:]) for images, _ in batches for _ in images]
    for shape, file in zip(shapes, data.val.sizes(), strict=True):
        assert (
            abs(np.log2(shape[1] / shape[0]) - np.log2(file[1] / file[0])) < 0.5
        )  # steps of 8 pixels are coarse
    halves = [list(eval_loader(data.val, 6, rank=rank, world=2)) for rank in range(2)]
    labels = [torch.cat([target for _, target in part]) for part in (batches, chain(*halves))]
    assert torch.equal(*labels)


def test_square_images_need_no_look_into_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vimzoo.data.images.reading.ReadImages.sizes", lambda self: pytest.fail("opened all files")
    )
    data = image_folder(str(folder), img_size=32, sides=[16, 32], step=8, max_aspect=1)
    sizes = {tuple(images.shape[2:]) for images, _ in train_loader(data, 8, seed=0)}
    assert sizes == {(16, 16), (32, 32)}


def test_random_crops_are_not_stretched(folder: Path) -> None:
    """A shape's crops have its own aspect in the middle of their range, as square crops have 1."""
    aug = {"scale": (0.3, 1.0), "ratio": (3 / 4, 4 / 3)}
    data = image_folder(str(folder), img_size=32, sides=[32], step=8, aug=aug)
    made = data.train.images.transform
    made(Image.new("RGB", (50, 50)), (24, 48))
    low, high = made.made[24, 48].transforms[0].ratio
    assert (low, high) == pytest.approx((2 * 3 / 4, 2 * 4 / 3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.sides=[20]"], r"data.sides=\[20\]: expected multiples of data.step=8"),
        (["data.sides=[]"], r"data.sides=\[\]: expected multiples"),
        (["data.max_aspect=0.5"], "data.max_aspect=0.5: expected 1"),
        (["data.step=0"], "data.step=0: expected at least 1"),
        (["data.tokens=60"], "data.tokens=60: expected at least 72, for 2 images of 48x48"),
        (["data.tokens=100000"], "data.tokens=100000: 80 images do not fill a batch"),
        (["data.repeats=3"], "data.repeats=3: expected 1 with data.sides"),
        (["data.sides=null", "data.tokens=100"], "data.tokens=100: expected null without data.sides"),
    ],
)
def test_what_cannot_be_met_is_named(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        launch(
            asked(folder, *words, "data.max_aspect=1" if words == ["data.tokens=60"] else "run.seed=0"),
            tmp_path,
        )


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def test_a_run_tells_its_sizes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch(asked(folder), tmp_path)
    said = capsys.readouterr().out
    assert "tokens used" in said and "sizes  " in said
    rows = list(csv.DictReader((tmp_path / "sizes.csv").open()))
    epochs = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    updates = int(checkpoint.read(tmp_path / "last.pt")["step"])
    assert sum(int(row["batches"]) for row in rows) == updates
    assert int(epochs[-1]["image_sizes"]) == len({(row["height"], row["width"]) for row in rows}) > 6
    assert {int(epochs[-1][f"batch_{end}"]) for end in ("min", "max")} == {
        pick(int(row["images"]) for row in rows) for pick in (min, max)
    }
    assert all(int(row["tokens"]) <= 8 * 16 for row in rows)
    assert (tmp_path / "predictions.png").exists()


def test_a_stopped_run_goes_on_bitwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: Any
) -> None:
    launch(asked(folder), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop_module, "train_step", stopping(4))
        launch(asked(folder), tmp_path / "cut")
    last = tmp_path / "cut/last.pt"
    with pytest.raises(UsageError, match=r"needs data.sides=\[16, 32, 48\], not \[16, 32\]"):
        launch(asked(folder, f"resume={last}", "data.sides=[16,32]"), tmp_path / "other")
    launch(asked(folder, f"resume={last}"), tmp_path / "on")
    whole, on = (checkpoint.read(tmp_path / name / "last.pt") for name in ("whole", "on"))
    for part in ("model", "model_ema", "optimizer", "sizes"):
        assert same_tensors(whole[part], on[part]), part


@pytest.mark.slow
def test_compiling_ends(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: Any
) -> None:
    """Many sizes of images and batches take a few graphs, in the first epoch alone."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    words = ("model.model_name=test_vim", "data.sides=[48,64,96]", "data.step=16", "data.img_size=64")
    more = ("data.max_aspect=4", "run.epochs=2", "run.ema=null", "run.compile=true", "+model.depth=1")
    launch(asked(folder, *words, *more), tmp_path)
    epochs = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert int(epochs[0]["image_sizes"]) > 6
    assert 1 <= int(epochs[0]["compilations"]) == int(epochs[1]["compilations"]) <= 4


@pytest.mark.slow
def test_two_processes_equal_one(folder: Path, tmp_path: Path) -> None:
    words = (
        "model.model_name=test_vim",
        "data.sides=[32,48,64]",
        "run.epochs=1",
        "data.tokens=144",
        "data.step=16",
    )
    for devices in (1, 2):
        # A budget that gives one process multiples of four images too, as two need
        launch(asked(folder, *words, f"devices={devices}", "data.max_aspect=1"), tmp_path / str(devices))
    one, two = (checkpoint.read(tmp_path / name / "last.pt") for name in ("1", "2"))
    assert one["sizes"] == two["sizes"]
    assert one["history"][0]["train_loss"] == pytest.approx(two["history"][0]["train_loss"], rel=1e-6)
