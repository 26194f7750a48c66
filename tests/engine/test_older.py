"""The command that an older version was started with, given again, continues the run that it began."""

import pytest

from vimzoo.engine.configuration.older import TIMMS_AUG, updated
from vimzoo.engine.configuration.words import applied, composed_settings

ADDED = ("split", "upright", "rounded", "balanced", "class_folders", "labels", "meta_info")


def written_before(words):
    """What an older version wrote to config.yaml."""
    cfg = composed_settings(words)
    return {**cfg, "data": {key: value for key, value in cfg["data"].items() if key not in ADDED}}


@pytest.mark.parametrize("again", [False, True])
def test_the_split_and_the_reading_of_photographs_stay(again: bool) -> None:
    words = ["model=test_vim", "data=folder", "data.root=photos", "aug=light"]
    begun = updated(written_before(words))
    if again:  # the run has gone on once, and has all settings by now
        begun = applied(begun, words)
    assert begun["data"]["split"] == "order" and begun["data"]["upright"] is False
    same = applied(begun, words)
    assert (
        same["data"]["split"] == "order" and same["data"]["upright"] is False and same["aug"] == begun["aug"]
    )
    asked = applied(begun, [*words, "data.split=names", "data.upright=true"])
    assert asked["data"]["split"] == "names" and asked["data"]["upright"] is True
    other = applied(begun, ["data=digits"])
    assert other["data"] == composed_settings(["data=digits"])["data"]


def test_what_was_not_named_in_augmentation_stays() -> None:
    words = ["model=test_vim", "data=folder", "data.root=photos", "aug=none"]
    begun = updated(written_before(words))
    assert applied(begun, words)["aug"]["transform"] == TIMMS_AUG
    assert applied(begun, [*words[:-1], "aug=imagenet"])["aug"] == composed_settings(["aug=imagenet"])["aug"]


@pytest.mark.parametrize("again", [False, True])
def test_the_loss_stays(again: bool) -> None:
    words = ["experiment=photos_denoise", "loss=charbonnier"]
    begun = updated(written_before(words))
    if again:
        begun = applied(begun, words)
    assert begun["loss"] == {"name": "charbonnier", "eps": 1e-12}
    assert applied(begun, words)["loss"] == {"name": "charbonnier", "eps": 1e-12}
    assert applied(begun, ["loss=charbonnier"])["loss"] == {"name": "charbonnier", "eps": 1e-12}
    assert applied(begun, ["loss=l1"])["loss"] == "l1"


def test_a_run_of_today_means_what_it_says() -> None:
    words = ["model=test_vim", "data=folder", "data.root=photos", "aug=none"]
    cfg = composed_settings(words)
    assert applied(cfg, words) == cfg
    denoising = composed_settings(["experiment=photos_denoise", "loss=charbonnier"])
    assert applied(denoising, ["loss=charbonnier"]) == denoising
