"""Experiments with the data of others: they run, or the error names settings and what to use instead."""

import re
from pathlib import Path

import pytest
from trainer_helpers import composed

from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.errors import UsageError

EXPERIMENTS = [
    "digits_tests", "vim_tiny", "mobile_mamba_b1", "moving_digits", "videomamba_tiny_k400", "photos_denoise",
    "mambair_sr_x4", "mambair_realdn", "shapes", "u_mamba", "swin_umamba",
]  # fmt: skip


@pytest.mark.parametrize("data", ["digits", "shapes", "photos", "moving_digits"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_with_other_data(experiment: str, data: str) -> None:
    """The data of these need no files."""
    cfg = composed(f"experiment={experiment}", f"data={data}")
    try:
        assert len(build_data(cfg).train)
    except UsageError as error:
        said = str(error)
        assert re.search(r"\b(task|data|aug)[.=]", said) and "keyword" not in said
        assert "expected" in said or "is made for data=" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "experiment=u_mamba data=shapes",
            "data.fit=crop, data.in_chans=1: data=shapes has no such settings; expected data=masks, which has them; "
            "~data.fit ~data.in_chans leaves them out",
        ),
        (
            "task=segment",
            "task=segment: it learns from masks, but data=digits has classes; expected data=masks or shapes",
        ),
        (
            "data=photos",
            "task=classify: it learns from classes, but data=photos has images; expected data=clips, digits, folder, "
            "hub, moving_digits or shards, or task=restore",
        ),
        ("+data.img_siz=9", "data.img_siz=9: data=digits has no such setting; similar names: img_size; "),
        ("aug=imagenet", "aug.transform: digits take rotate, .*; aug=digits is made for data=digits"),
        ("experiment=shapes aug=light", "aug.transform: .*; aug=none is made for data=shapes"),
        ("aug.transform.rotate=[1,2]", r"aug.transform: expected numbers as rotate, .*, got \[\[1, 2\], "),
    ],
)
def test_what_does_not_fit_is_named(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_data(composed(*words.split()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "model=test_vmamba data.img_size=2",
            "images of 1 x 2 x 2 do not fit the model: expected a height of at least 4",
        ),
        (
            "model=test_u_mamba +model.strides=[4,4,4] task=segment data=shapes loss=dice data.img_size=16",
            "expected images with a side above",
        ),
    ],
)
def test_images_that_a_model_refuses(words: str, message: str, tmp_path: Path) -> None:
    """While it trains; the setting of their size is named."""
    with pytest.raises(
        UsageError, match=f"{message}.*; data.img_size, or data.crop of pairs, sets their size"
    ):
        launch(composed(*words.split(), "run.epochs=1", "run.limit_batches=1", "run.device=cpu"), tmp_path)
