"""Moving digits: no single frame shows the class; clips of views, and mixed ones."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from trainer_helpers import composed

from vimzoo.data import bundled_moving_digits
from vimzoo.data.sources.moving_digits import DIRECTIONS, MovingDigits
from vimzoo.engine import launch
from vimzoo.engine.loop import of_views
from vimzoo.engine.tasks.classification import ClipMixup
from vimzoo.errors import UsageError


@pytest.fixture(scope="module")
def clips() -> MovingDigits:
    data = bundled_moving_digits(frames=3)
    assert data.frames == 3 and data.input_size == (1, 24, 24) and data.classes == tuple(DIRECTIONS)
    return data.train


def test_a_digit_moves_in_the_direction_of_its_class(clips: MovingDigits) -> None:
    seen = set()
    for index in range(40):
        clip, label = clips[0, index]
        down, right = tuple(DIRECTIONS.values())[label]
        assert clip.shape == (1, 3, 24, 24)
        for frame in (1, 2):
            assert torch.equal(clip[0, frame], clip[0, 0].roll((2 * down * frame, 2 * right * frame), (0, 1)))
        seen.add(label)
    assert len(seen) == 8


def test_clips_depend_on_their_key_alone(clips: MovingDigits) -> None:
    again = bundled_moving_digits(frames=3).train
    assert torch.equal(clips[1, 5][0], again[1, 5][0])
    assert any(clips[0, index][1] != clips[1, index][1] for index in range(20))
    held = bundled_moving_digits().val
    assert torch.equal(held[7][0], bundled_moving_digits(seed=3).val[7][0])
    with pytest.raises(IndexError):
        held[len(held)]


def test_what_moving_digits_refuse() -> None:
    with pytest.raises(UsageError, match="`frames`=1: expected at least 2"):
        bundled_moving_digits(frames=1)
    with pytest.raises(UsageError, match="take no augmentation, not hflip"):
        bundled_moving_digits(aug={"hflip": 0.5})
    with pytest.raises(UsageError, match="`img_size`=7"):
        bundled_moving_digits(7)


def test_probabilities_of_views_are_averaged() -> None:
    """By the mean of probabilities, not of logits."""
    logits = torch.tensor([[[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]]])  # (films, views, classes)
    views = logits[:, :, :, None, None, None].expand(-1, -1, -1, 1, 1, 1)
    found = of_views(nn.Flatten(), views)
    torch.testing.assert_close(found.exp(), logits.softmax(-1).mean(1))
    assert of_views(nn.Flatten(), torch.zeros(3, 2, 1, 1, 1)).shape == (3, 2)


def test_frames_of_a_clip_are_mixed_alike() -> None:
    torch.manual_seed(0)
    mix = ClipMixup(mixup_alpha=0.0, cutmix_alpha=1.0, prob=1.0, num_classes=2, label_smoothing=0.0)
    x = torch.stack([torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)])
    mixed, targets = mix(x.clone(), torch.tensor([0, 1]))
    assert mixed.shape == x.shape and targets.shape == (2, 2)
    assert torch.equal(mixed[:, :, 0], mixed[:, :, 1]) and torch.equal(mixed[:, :, 0], mixed[:, :, 2])
    torch.testing.assert_close(mixed[0].mean(), targets[0, 1])


def test_a_run_of_two_steps(tmp_path: Path) -> None:
    words = ["run.epochs=1", "run.limit_batches=2", "data.batch_size=8", "run.ema=null"]
    launch(composed("experiment=moving_digits", *words), tmp_path, words)
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 <= scores["test"]["top1"] <= 100 and (tmp_path / "predictions.png").is_file()


@pytest.mark.slow  # a minute on a busy machine
def test_the_experiment_learns_the_directions(tmp_path: Path) -> None:
    launch(composed("experiment=moving_digits"), tmp_path, [])
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["top1"] > 95
