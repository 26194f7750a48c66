"""Weights that are part of the package: they load without a network and do what their cards say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from vimzoo.data import bundled_digits
from vimzoo.data.pairs.crops import read_pixels
from vimzoo.data.pairs.degradations import Degradation, add_noise, imresize, to_image
from vimzoo.data.pairs.photos import photo_files
from vimzoo.metrics import psnr, to_8bit
from vimzoo.models.registry import find_facts, known_facts

SHIPPED = {name: facts for name, facts in known_facts().items() if facts.shipped}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


def held_out(side: int) -> torch.Tensor:
    """The middle of a photograph that no model was trained on."""
    pixels = to_image(read_pixels(photo_files("test")[0]))
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]


def test_which_models_have_weights() -> None:
    assert set(SHIPPED) == {"test_vim", "test_vmamba", "test_mambair", "mambair_mini_dn", "mambair_mini_x2"}
    for name in SHIPPED:
        (tagged,) = timm.list_pretrained(f"{name}.*")
        assert tagged == SHIPPED[name].tagged(SHIPPED[name].tags[0])


@pytest.mark.parametrize("name", SHIPPED)
def test_files_are_small_and_loaded_whole(name: str) -> None:
    facts, tag = find_facts(name)
    assert facts.shipped is not None
    path = Path(facts.shipped, facts.weights(tag)["file"])
    stored = load_file(path)
    assert path.stat().st_size < 500_000 and {tensor.dtype for tensor in stored.values()} == {torch.float16}
    found = timm.create_model(name, pretrained=True).state_dict()
    assert stored.keys() == found.keys()
    assert all(torch.equal(found[key], tensor.float()) for key, tensor in stored.items())


@torch.inference_mode()
@pytest.mark.parametrize(("name", "gain"), [("mambair_mini_x2", 0.5), ("test_mambair", 0.2)])
def test_the_larger_picture_is_better_than_bicubic(name: str, gain: float) -> None:
    high = held_out(96)
    low = to_image(Degradation(scale=2).reduced(to_8bit(high)))
    bicubic = psnr(imresize(low, 2), high, crop=2, y=True)
    model = timm.create_model(name, pretrained=True).eval()
    assert psnr(model(low[None])[0], high, crop=2, y=True) > bicubic + gain


@torch.inference_mode()
def test_noise_of_any_level_is_removed() -> None:
    model, clean = timm.create_model("mambair_mini_dn", pretrained=True).eval(), held_out(96)
    for sigma, least in ((10, 2), (25, 7), (50, 10)):
        noisy = to_image(to_8bit(add_noise(clean, sigma, np.random.default_rng(sigma))))
        assert psnr(model(noisy[None])[0], clean) > psnr(noisy, clean) + least, sigma
    assert psnr(model(clean[None])[0], clean) > 36  # hardly changed


@torch.inference_mode()
@pytest.mark.parametrize("name", ["test_vim", "test_vmamba"])
def test_digits_are_recognised(name: str) -> None:
    model, data = timm.create_model(name, pretrained=True).eval(), bundled_digits(64, in_chans=3)
    assert data.mean == pytest.approx(model.pretrained_cfg["mean"], abs=1e-4)
    assert data.std == pytest.approx(model.pretrained_cfg["std"], abs=1e-4)
    images, labels = (tensor[:120] for tensor in data.test.tensors)
    assert (model(images).argmax(1) == labels).float().mean() > 0.96
    assert model.num_classes == timm.create_model(name).num_classes == 10
