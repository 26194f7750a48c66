"""Sliding windows."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from vimzoo.segmentation import gaussian_weights, sliding_windows, window_starts


def test_starts_are_spread_evenly() -> None:
    assert window_starts(110, 64) == [0, 23, 46]
    assert window_starts(200, 64) == [0, 27, 54, 82, 109, 136]
    assert window_starts(64, 64) == window_starts(40, 64) == [0]
    assert window_starts(128, 64, 0.0) == [0, 64]


def test_weights_are_not_clamped() -> None:
    weights = gaussian_weights((64, 32))
    assert weights.shape == (64, 32) and weights[32, 16] == 1
    assert float(weights.min()) == pytest.approx(1.1e-7, rel=0.03)


@pytest.mark.parametrize("shape", [(2, 1, 40, 90), (1, 1, 130, 20), (1, 1, 64, 64), (1, 1, 7, 9, 11)])
def test_a_function_of_single_pixels_gives_the_whole(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def function(x: Tensor) -> Tensor:
        return torch.cat([x.sin(), x * 2, x + 1], 1)

    window = (4, 6, 8) if len(shape) == 5 else (64, 48)
    assert torch.allclose(sliding_windows(function, images, window), function(images), atol=1e-5)


def test_scores_of_neighbours_differ_little_from_the_whole_image() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 150, 110, generator=generator)
    first, second = (torch.randn(s, generator=generator) / 12 for s in ((8, 3, 7, 7), (4, 8, 7, 7)))

    def network(x: Tensor) -> Tensor:
        hidden = torch.nn.functional.conv2d(x, first, padding=3).relu()
        return torch.nn.functional.conv2d(hidden, second, padding=3)

    whole, parts = network(images), sliding_windows(network, images, (64, 64))
    assert float((whole - parts).abs().max()) < 0.01 * float(whole.std())


def test_wrong_arguments() -> None:
    images = torch.zeros(1, 1, 8, 8)
    for change, message in (
        ({"window": (8,)}, "window"),
        ({"overlap": 1.0}, "overlap"),
        ({"batch": 0}, "batch"),
    ):
        with pytest.raises(ValueError, match=message):
            sliding_windows(lambda x: x, images, **{"window": (4, 4), **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="function: expected scores"):
        sliding_windows(lambda x: x.argmax(1), images, (4, 4))


def test_small_and_missing_images_of_a_network_with_windows() -> None:
    """They are read as crops are in training: with zeros around them."""
    model: Any = timm.create_model("test_u_mamba", window=(64, 64)).eval()
    x = torch.randn(1, 3, 20, 30)
    with torch.no_grad():
        want = model.whole(F.pad(x, [17, 17, 22, 22]))[:, :, 22:42, 17:47]
        assert torch.allclose(model(x), want, atol=1e-5) and not torch.allclose(
            model.whole(x), want, atol=1e-2
        )
        assert model(torch.randn(0, 3, 80, 30)).shape == (0, 2, 80, 30)
        assert model.train()(x).shape == (1, 2, 20, 30)
