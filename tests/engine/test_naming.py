"""Data speak of arguments to a Python user, of settings to a user of the command line; a source registers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_helpers import composed, small

from vimzoo.data import SOURCES, Source, Splits, image_folder, train_loader
from vimzoo.data.batches.drawing import EpochSampler, Request
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.naming import naming_settings
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "words", "python", "command"),
    [
        ({}, [], "`root` is not set; expected `root`=DIR", r"data.root is not set; expected data.root=DIR"),
        ({"root": "nowhere"}, ["data.root=nowhere"], "`root`=nowhere: no such", "data.root=nowhere: no such"),
        (
            {"root": ".", "class_folders": "inner"}, ["data.root=.", "data.class_folders=inner"],
            "`class_folders`=inner: expected `None`, top or leaf",
            "data.class_folders=inner: expected null, top or leaf",
        ),
        (
            {"root": ".", "sides": [20]}, ["data.root=.", "data.sides=[20]"],
            r"`sides`=\[20\]: expected multiples of `step`=16",
            r"data.sides=\[20\]: expected multiples of data.step=16",
        ),
        (
            {"root": ".", "aug": {"blur": 1}}, ["data.root=.", "+aug.transform.blur=1"],
            r"`aug`=\{.*blur", r"aug.transform=\{.*blur",
        ),
    ],
)  # fmt: skip
def test_an_argument_and_a_setting_each_have_their_name(
    arguments: dict[str, Any], words: list[str], python: str, command: str
) -> None:
    with pytest.raises(UsageError, match=f"^{python}"):
        image_folder(**arguments)
    with pytest.raises(UsageError, match=f"^{command}"):
        build_data(composed("model=test_vim", "data=folder", *words))


def test_the_loader_names_settings_too(images: Path) -> None:
    data = image_folder(str(images), img_size=32)
    with pytest.raises(UsageError, match=r"^`batch_size`=5 of \d+ images: expected a multiple of `world`=2"):
        train_loader(data, 5, seed=0, world=2)
    named = pytest.raises(
        UsageError, match=r"^data.batch_size=5 of \d+ images: expected a multiple of devices=2"
    )
    with named, naming_settings({"data": {"batch_size": 5}}):
        train_loader(data, 5, seed=0, world=2)


@pytest.mark.parametrize("text", ["`other`=1: expected 2", "no name at all", "`root: one quote"])
def test_other_errors_stay_the_same_object(text: str) -> None:
    error = UsageError(text)
    with pytest.raises(UsageError) as caught, naming_settings({"data": {"root": None}}):
        raise error
    assert caught.value is error


class Alternating(EpochSampler):
    """Batches of 2 and 6 images in turn."""

    def __init__(self, request: Request) -> None:
        self.request, self.count = request, request.images // 4

    def __iter__(self) -> Any:
        order = np.random.default_rng([self.request.seed, self.epoch]).permutation(self.request.images)
        for number in range(self.start, self.count):
            first, size = 8 * (number // 2) + 2 * (number % 2), (2, 6)[number % 2]
            yield [(self.epoch, int(index)) for index in order[first : first + size]]

    def summary(self) -> str:
        return "2 and 6 images in turn"


class InTurn:
    """How the toy's batches are drawn."""

    many_sizes, any_shape, order = True, False, ("count",)

    def sampler(self, request: Request) -> Alternating:
        return Alternating(request)

    def tokens(self, height: int, width: int) -> int:
        return height


class Squares:
    """Grey squares, dark ones of class 0 and bright ones of class 1."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: Any) -> tuple[torch.Tensor, int]:
        if (index := key[1] if isinstance(key, tuple) else int(key)) >= self.count:
            raise IndexError(index)
        return torch.full((3, self.size, self.size), float(index % 2)), index % 2


def squares(
    count: int = 16, img_size: int = 32, *, aug: Any = None, seed: int = 0, pretrained_cfg: Any = None
) -> Splits:
    """A source of data as somebody else would write it."""
    if count % 8:
        raise UsageError(f"`count`={count}: expected a multiple of 8")
    parts = [Squares(number, img_size) for number in (count, 8, 8)]
    return Splits(
        "squares", *parts, ("dark", "bright"), (3, img_size, img_size), (0.0,) * 3, (1.0,) * 3, batching=InTurn()
    )  # fmt: skip


def test_a_source_in_one_file_works_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings are its arguments, its errors name them, and its batches are drawn as it says."""
    monkeypatch.setitem(SOURCES, "squares", Source("squares", squares))
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    cfg = composed("data=squares", "aug=none", "data.count=24")
    assert cfg["data"] == {
        "source": "squares", "batch_size": 64, "workers": None, "count": 24, "img_size": 32,
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"^data.count=12: expected a multiple of 8"):
        build_data(composed("data=squares", "aug=none", "data.count=12"))
    words = ["data=squares", "aug=none", "data.workers=0", "run.limit_batches=null"]
    launch(small(*words), tmp_path / "run")
    assert "sizes  2 and 6 images in turn" in capsys.readouterr().out
    rows = (tmp_path / "run/sizes.csv").read_text().split()
    assert rows == ["height,width,images,tokens,batches", "8,8,2,16,2", "8,8,6,48,2"]
