"""Pictures through a model: channels, tiles against the whole, self-ensemble, routes, precision, lack of memory."""

import logging

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch.nn.functional import interpolate

from vimzoo.models import MambaIR
from vimzoo.restoration import Restorer

LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def floats(shape: tuple, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@torch.no_grad()
def straight(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """The model on a whole picture (H, W, C), without anything of ours around it."""
    answer = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    return answer[0].permute(1, 2, 0).numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize(("dtype", "white"), ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)))
@pytest.mark.parametrize("kind", ("light_x2", "light_x3", "dn"))
def test_the_whole_is_what_the_model_answers(small, kind: str, dtype: type, white: int) -> None:
    model = small(kind)
    stored = (floats((13, 18, 3)) * white).astype(dtype)
    restored = Restorer(model, tile="none")(stored)
    want = straight(model, stored.astype(np.float32) / white)
    assert restored.dtype == dtype and restored.shape == want.shape
    if white == 1:
        assert np.allclose(restored, want, atol=1e-6)
    else:
        assert np.abs(restored - want.clip(0, 1) * white).max() < 0.51


def test_grey_through_a_colour_model(small) -> None:
    model, grey = small("light_x2"), floats((12, 11))
    restored = Restorer(model)(grey)
    assert restored.shape == (24, 22)
    assert np.allclose(restored, straight(model, grey[..., None].repeat(3, -1)) @ LUMA, atol=1e-5)


@pytest.mark.parametrize("kind", ("car", "grey_x2"))
def test_colour_through_a_grey_model(small, kind: str) -> None:
    """Luma is restored; the differences from it are kept, by another library's bicubic enlargement."""
    model, colour = small(kind), floats((12, 14, 3))
    restored = Restorer(model)(colour)
    luma = (colour @ LUMA)[..., None]
    assert np.allclose(restored @ LUMA, straight(model, luma)[..., 0], atol=1e-4)
    kept = torch.from_numpy(colour - luma).permute(2, 0, 1)[None]
    if model.scale > 1:
        kept = interpolate(kept, scale_factor=2, mode="bicubic")
    want = kept[0].permute(1, 2, 0).numpy()
    assert np.allclose(restored - (restored @ LUMA)[..., None], want - (want @ LUMA)[..., None], atol=1e-4)


@pytest.mark.parametrize("channels", (2, 4))
def test_alpha_passes_on_its_own(small, channels: int) -> None:
    restore = Restorer(small("light_x2"))
    picture = floats((14, 10, channels))
    restored = restore(picture)
    assert np.array_equal(restored[..., :-1], restore(picture[..., :-1]))
    assert np.array_equal(restored[..., -1], restore(picture[..., -1]))
    picture[..., -1] = 200 / 255
    assert (restore(picture)[..., -1] == np.float32(200 / 255)).all()


@pytest.mark.parametrize("size", ((1, 1), (1, 40), (7, 3), (33, 29)))
@pytest.mark.parametrize("kind", ("light_x3", "car", "unet", "v2"))
def test_any_size(small, kind: str, size: tuple[int, int]) -> None:
    model = small(kind)
    picture = (floats((*size, 3)) * 255).astype(np.uint8)
    restored = Restorer(model, tile=16)(picture)
    assert restored.shape == (size[0] * model.scale, size[1] * model.scale, 3)
    if kind in ("light_x3", "v2") and max(size) <= 16:  # one tile, which the model takes as it is
        wanted = straight(model, picture.astype(np.float32) / 255)
        assert np.abs(restored.astype(int) - (wanted.clip(0, 1) * 255).round()).max() <= 1


def test_sides_that_the_model_does_not_take_are_mirrored(small) -> None:
    model, picture = small("unet"), floats((13, 18, 3))
    padded = np.pad(picture, ((0, 3), (0, 6), (0, 0)), mode="reflect")
    assert np.allclose(Restorer(model)(picture), straight(model, padded)[:13, :18], atol=1e-5)


@pytest.mark.parametrize("kind", ("light_x2", "v2"))
def test_batches_change_rounding_alone(small, kind: str) -> None:
    model, picture = small(kind), floats((60, 70, 3))
    one, two, many = (Restorer(model, tile=24, overlap=8, batch=batch)(picture) for batch in (1, 2, 5))
    assert max(np.abs(one - other).max() for other in (two, many)) < 1e-5
    eight_bits = (picture * 255).round().astype(np.uint8)
    one, two, many = (
        Restorer(model, tile=24, overlap=8, batch=batch)(eight_bits).astype(int) for batch in (1, 2, 5)
    )
    assert max(np.abs(one - other).max() for other in (two, many)) <= 1
    again = Restorer(model, tile=24, overlap=8, batch=5)(eight_bits)
    assert (again == many).all()


def test_routes_are_repeatable_tile_by_tile(small) -> None:
    model, picture = small("v2"), floats((40, 60, 3))
    before = torch.get_rng_state()
    first = Restorer(model, tile=24, overlap=8)(picture)
    assert torch.equal(torch.get_rng_state(), before) and model.route_noise is None
    Restorer(model)(floats((8, 8, 3)))  # what ran before has no effect
    assert np.array_equal(first, Restorer(model, tile=24, overlap=8)(picture))
    assert not np.array_equal(first, Restorer(model, tile=24, overlap=8, seed=1)(picture))
    taller = np.concatenate([picture, floats((16, 60, 3), 1)])  # tiles of the first row stay where they are
    rows = 2 * (24 - 8)
    again = Restorer(model, tile=24, overlap=8)(taller)
    assert np.array_equal(first[:rows], again[:rows])


def test_each_tile_and_flip_has_routes_of_its_own(small) -> None:
    model, seen = small("v2"), []
    flat = np.full((24, 40, 3), 0.5, np.float32)  # two equal tiles
    model.groups[0].blocks[0].scan.register_forward_hook(
        lambda m, a, y: seen.append(a[2](torch.zeros(1, 9, 5)))
    )
    Restorer(model, tile=24, overlap=8, self_ensemble=True)(flat)
    assert len({tuple(noise.flatten().tolist()) for noise in seen}) == len(seen) == 16


def test_routes_that_are_certain_stay_so(small) -> None:
    model, picture = small("v2"), floats((16, 16, 3))
    model.routing = "argmax"
    assert np.allclose(Restorer(model)(picture), straight(model, picture), atol=1e-5)
    model.routing, model.route_noise = "gumbel", torch.zeros_like  # the caller's own noise
    assert np.allclose(Restorer(model)(picture), straight(model, picture), atol=1e-5)


def test_self_ensemble_is_the_mean_of_all_positions(small) -> None:
    model, picture = small("light_x2"), floats((10, 13, 3))
    answers = []
    for turns in range(4):
        for mirrored in (False, True):
            turned = np.rot90(picture[:, ::-1] if mirrored else picture, turns)
            back = np.rot90(straight(model, turned.copy()), -turns)
            answers.append(back[:, ::-1] if mirrored else back)
    restored = Restorer(model, self_ensemble=True)(picture)
    assert np.allclose(restored, np.mean(answers, 0), atol=1e-5)
    assert not np.allclose(restored, answers[0], atol=1e-3)


@pytest.mark.parametrize(("dtype", "least"), ((torch.bfloat16, 40), (torch.float16, 55)))
def test_reduced_precision(small, dtype: torch.dtype, least: float) -> None:
    model, picture, seen = small("dn"), floats((32, 24, 3)), []
    model.conv_first.register_forward_hook(lambda m, a, y: seen.append(y.dtype))
    reduced = Restorer(model, dtype=dtype, tile=32)(picture)
    assert seen == [dtype]
    assert reduced.dtype == np.float32
    difference = psnr(reduced, Restorer(model)(picture))
    assert least < difference < 120


def memory_for(model: torch.nn.Module, pixels: int, error: Exception) -> list[tuple[int, int]]:
    """Lets a model run out of memory above so many pixels; gives the (tiles, side) that it was asked for."""
    asked = []

    def check(_: torch.nn.Module, args: tuple) -> None:
        asked.append((args[0].shape[0], max(args[0].shape[2:])))
        if args[0].shape[0] * args[0].shape[2] * args[0].shape[3] > pixels:
            raise error

    model.register_forward_pre_hook(check)
    return asked


ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    "numpy": MemoryError(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_lack_of_memory_halves_the_tile(small, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model, picture = small("light_x2"), floats((100, 90, 3))
    want = Restorer(model, tile=24, overlap=8)(picture)
    asked = memory_for(model, 24 * 24, ERRORS[kind])
    restore, told = Restorer(model, tile=96, overlap=8), []
    with caplog.at_level(logging.WARNING):
        restored = restore(picture, told.append)
    assert np.array_equal(restored, want)
    assert [side for _, side in asked[:2]] == [90, 39]  # in 54 x 90 and 39 x 36, as few equal parts as do
    assert {side for _, side in asked[2:]} == {24}
    assert len(caplog.messages) == 2 and "continuing with tiles of 24, 1 at once" in caplog.text
    assert told[-1] == 1.0
    asked.clear()
    restore(picture)  # remembers
    assert max(side for _, side in asked) <= 24


def test_lack_of_memory_takes_fewer_tiles_first(small) -> None:
    model = small("light_x2")
    asked = memory_for(model, 2 * 32 * 32, ERRORS["cuda"])
    restore = Restorer(model, tile=32, overlap=8, batch=8)
    restore(floats((100, 100, 3)))
    assert restore.batch == 2 and len({side for _, side in asked}) == 1
    assert [count for count, _ in asked[:4]] == [8, 4, 2, 2]


@pytest.mark.parametrize("tile", ("none", "official"))
def test_prescribed_tiles_are_not_halved(small, tile: str) -> None:
    model = small("light_x2")
    asked = memory_for(model, 100, ERRORS["cuda"])
    with pytest.raises(torch.OutOfMemoryError):
        Restorer(model, tile=tile)(floats((30, 30, 3)))
    assert len(asked) == 1


def test_lack_of_memory_for_the_smallest_tile_is_an_error(small) -> None:
    model = small("light_x2")
    asked = memory_for(model, 0, ERRORS["cpu"])
    with pytest.raises(RuntimeError, match="memory"):
        Restorer(model, tile=64)(floats((80, 80, 3)))
    assert 3 <= len(asked) <= 4


def test_other_errors_are_not_tried_again(small) -> None:
    model = small("light_x2")
    asked = memory_for(model, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Restorer(model, tile=64)(floats((80, 80, 3)))
    assert len(asked) == 1


def test_damaged_weights_are_refused(small) -> None:
    model = small("light_x2")
    with torch.no_grad():
        model.groups[0].conv.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"groups\.0\.conv\.weight holds NaN"):
        Restorer(model)


def test_an_answer_that_is_no_number_is_an_error(small) -> None:
    model = small("dn")
    with torch.no_grad():
        model.conv_first.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        Restorer(model)(floats((8, 8, 3)))


@pytest.mark.parametrize(
    ("options", "says"),
    (
        (dict(tile="big"), "tile: expected a number"),
        (dict(tile=1), "tile: expected at least"),
        (dict(tile=64, overlap=33), "overlap: expected 0 to half"),
        (dict(overlap=-1), "overlap"),
        (dict(batch=0), "batch"),
        (dict(dtype=torch.float64), "dtype"),
    ),
)
def test_impossible_options_are_refused(small, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Restorer(small("light_x2"), **options)


def test_models_and_pictures_of_another_kind_are_refused(small) -> None:
    with pytest.raises(ValueError, match="expected a restoration model, got Linear"):
        Restorer(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        Restorer(MambaIR(in_chans=4, embed_dim=32, depths=(1,), d_state=4))
    with pytest.raises(ValueError, match="multiples of 8"):
        Restorer(small("unet"), tile="official")
    infinite = np.full((4, 4), np.inf, np.float32)
    for wrong in (np.zeros((4, 4, 5)), np.zeros((0, 4, 3)), np.zeros(4), np.zeros((4, 4), bool), infinite):
        with pytest.raises(ValueError, match="pixels: expected"):
            Restorer(small("light_x2"))(wrong)


def test_tiles_lose_nothing_on_a_photograph(photograph: np.ndarray) -> None:
    """A denoiser, trained here for seconds on one photograph, on another: in tiles as good as whole.

    Tiles of 64 with the default overlap cut it into 35; the distance of PSNR is to be below 0.05 dB.
    """
    model = trained_denoiser()
    clean = photograph[100:292, 200:456].astype(np.float32) / 255
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    whole = psnr(Restorer(model, tile="none")(noisy), clean)
    assert whole > psnr(noisy, clean) + 2.5
    assert abs(psnr(Restorer(model, tile=64)(noisy), clean) - whole) < 0.05
    assert psnr(Restorer(model, tile=64)(noisy), Restorer(model, tile="none")(noisy)) < 100  # they do differ


def trained_denoiser() -> MambaIR:
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1) / 255
    model = MambaIR(embed_dim=32, depths=(2,), d_state=4, ratio=1.2, cab="light")
    torch.nn.init.zeros_(model.head.conv_out.weight)  # begins as the identity
    torch.nn.init.zeros_(model.head.conv_out.bias)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(40):
        places = torch.randint(0, 427 - 32, (4, 2)).tolist()
        clean = torch.stack([photo[:, y : y + 32, x : x + 32] for y, x in places])
        loss = (model(clean + 0.1 * torch.randn_like(clean)) - clean).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
