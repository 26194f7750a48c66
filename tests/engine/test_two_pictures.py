"""Two pictures of each scene: data read as files hold them, losses and scores by hand, runs of both tasks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
from pair_files import make_photo
from PIL import Image
from skimage.metrics import structural_similarity
from trainer_helpers import composed

from vimzoo import eval as evaluation
from vimzoo.data import (
    bundled_fusion_photos,
    bundled_sharpening_photos,
    fusion_folder,
    sharpening_folder,
)
from vimzoo.data.images.fingerprint import fingerprint
from vimzoo.data.pairs.degradations import imresize, to_image
from vimzoo.engine import launch
from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.fusion_loss import FusionLoss, ms_ssim
from vimzoo.engine.loop import given, train_step
from vimzoo.engine.tasks import find_task
from vimzoo.engine.tasks.sharpening import decibels, relative_error, spectral_angle
from vimzoo.errors import UsageError

FEW = ("data.crops=8", "data.batch_size=4", "run.epochs=1", "run.limit_batches=2", "run.device=cpu")


def make_scenes(folder: Path, sides: tuple[int, int] = (50, 71)) -> Path:
    for i in range(5):
        for kind in ("ir", "vis"):
            make_photo(folder / kind / f"{i}.png", *sides, seed=10 * i + len(kind))
    return folder


def make_bands(folder: Path, truth: bool, count: int = 5) -> dict[str, np.ndarray]:
    """Images of five bands of 11 bits and finer ones of one band; those of the last scene."""
    rng, arrays = np.random.default_rng(0), {}
    for i in range(count):
        arrays = {"ms": rng.integers(0, 2048, (13, 15, 5)), "pan": rng.integers(0, 2048, (52, 60, 1))}
        if truth:
            arrays["gt"] = rng.integers(0, 2048, (52, 60, 5))
        for kind, pixels in arrays.items():
            (folder / kind).mkdir(exist_ok=True, parents=True)
            one = pixels.shape[2] == 1
            layout: dict[str, Any] = {} if one else {"planarconfig": "contig", "extrasamples": [0] * 4}
            shown = pixels.astype(np.uint16)[..., 0] if one else pixels.astype(np.uint16)
            tifffile.imwrite(folder / kind / f"{i}.tif", shown, photometric="minisblack", **layout)
    return arrays


def test_pictures_of_a_scene_are_given_as_they_are_and_both_are_the_target(tmp_path: Path) -> None:
    data = fusion_folder(make_scenes(tmp_path), crop=32, test_fraction=1)
    (x, other), both = data.test[4]
    height, width = 32, 64  # multiples of 32
    for picture, kind in ((x, "ir"), (other, "vis")):
        pixels = np.asarray(Image.open(tmp_path / kind / "4.png").convert("L"))
        middle = pixels[(50 - height) // 2 :, (71 - width) // 2 :][:height, :width]
        assert torch.equal(picture, to_image(middle[..., None]))
    assert torch.equal(both, torch.cat([x, other]))
    assert data.input_size == (1, 32, 32)
    (x, other), both = data.train[3, 2]
    assert x.shape == other.shape == (1, 32, 32) and torch.equal(both, torch.cat([x, other]))


@pytest.mark.parametrize("truth", [False, True])
def test_bands_are_sharpened_to_what_is_there_or_to_the_original(truth: bool, tmp_path: Path) -> None:
    arrays = make_bands(tmp_path, truth)
    data = sharpening_folder(tmp_path, peak=2047, crop=8, test_fraction=1)
    assert data.scale == 4 and data.input_size == (5, 2, 2)
    (x, guide), target = data.test[4]
    ms, pan, gt = (
        torch.from_numpy(arrays[kind] / 2047).float().permute(2, 0, 1) if kind in arrays else None
        for kind in ("ms", "pan", "gt")
    )
    if truth:
        assert torch.equal(x, ms) and torch.equal(guide, pan) and torch.equal(target, gt)
    else:
        torch.testing.assert_close(x, imresize(ms[:, :12, :12], 0.25))
        torch.testing.assert_close(guide, imresize(pan, 0.25)[:, :12, :12])
        assert torch.equal(target, ms[:, :12, :12])
    (x, guide), target = data.train[0, 0]
    assert x.shape == (5, 2, 2) and guide.shape == (1, 8, 8) and target.shape == (5, 8, 8)


def test_a_guide_that_differs_is_seen_by_other_processes(tmp_path: Path) -> None:
    make_bands(tmp_path, truth=False)
    before = fingerprint(sharpening_folder(tmp_path, crop=8))
    tifffile.imwrite(tmp_path / "pan" / "0.tif", np.zeros((52, 60), np.uint16))
    after = fingerprint(sharpening_folder(tmp_path, crop=8))
    assert {name for name in before if before[name] != after[name]} <= {
        f"contents of {part} images" for part in ("training", "validation", "test")
    } and before != after


def test_photographs_as_two_pictures() -> None:
    (x, other), both = bundled_fusion_photos(eval_crop=64).test[0]
    assert torch.equal(both, torch.cat([x, other]))
    slopes = [picture.diff(dim=1).abs() for picture in (x, other)]
    assert slopes[0][..., :32].sum() > slopes[1][..., :32].sum()  # first the right half is out of focus
    assert slopes[0][..., 32:].sum() < slopes[1][..., 32:].sum()
    (x, guide), target = bundled_sharpening_photos(eval_crop=64).test[0]
    assert torch.equal(guide[0], target.mean(0)) and x.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": 40}, "`crop`=40: expected a multiple of `multiple`=32"),
        ({"multiple": 64, "crop": 64}, "`multiple`=64: .* is only 50 x 71 pixels"),
        ({"in_chans": 2}, "`in_chans`=2: expected 1"),
        ({"root": None}, "`root` is not set; expected `root`=DIR with DIR/ir"),
    ],
)
def test_wrong_scenes_are_named(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        fusion_folder(**{"root": make_scenes(tmp_path), "crop": 32, **options})


def test_wrong_bands_are_named(tmp_path: Path) -> None:
    make_bands(tmp_path, truth=True)
    with pytest.raises(UsageError, match="`peak`=0: expected a positive number"):
        sharpening_folder(tmp_path, peak=0)
    (tmp_path / "gt" / "3.tif").unlink()
    with pytest.raises(UsageError, match=r"files without a partner \(1\): low/3\.tif"):
        sharpening_folder(tmp_path)
    for i in range(5):
        tifffile.imwrite(tmp_path / "gt" / f"{i}.tif", np.zeros((26, 30), np.uint16))
    with pytest.raises(UsageError, match="finer images are 2 and 4 times as large; expected one number"):
        sharpening_folder(tmp_path)


def test_similarity_over_scales() -> None:
    a, b = torch.rand(2, 2, 3, 21, 20, generator=torch.Generator().manual_seed(0)).unbind(0)
    rules: dict[str, Any] = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    for index, value in enumerate(ms_ssim(a, b)):  # of 21 pixels one scale is left
        images = (part[index].permute(1, 2, 0).double().numpy() for part in (a, b))
        single = structural_similarity(*images, channel_axis=2, data_range=1.0, **rules)
        assert value.item() == pytest.approx((1 + single) / 2, abs=1e-5)
    large = torch.rand(1, 1, 180, 176)
    torch.testing.assert_close(ms_ssim(large, large), torch.ones(1))
    assert 0 < ms_ssim(large, 1 - large).item() < ms_ssim(large, large.flip(3)).item() < 1


def test_the_loss_of_a_fusion_by_hand() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 12, 12) / 24
    both = torch.cat([ramp, ramp + 0.25], dim=1)
    assert FusionLoss()(ramp, torch.cat([ramp, ramp], dim=1)).item() == pytest.approx(0, abs=1e-6)
    assert FusionLoss(0, 1, 0)(ramp, both).item() == pytest.approx(0.25**2)
    inner = torch.ones(1, 1, 12, 12)
    slope = FusionLoss(0, 0, 1)
    assert slope(0 * inner, torch.cat([inner, 0 * inner], dim=1)) > 0  # the border of zeros
    differs = slope(ramp, torch.cat([2 * ramp, ramp], dim=1))
    assert differs.item() > 8 / 24 * 100 / 144  # the Sobel operator gives 8/24 on the inner 10 x 10
    with pytest.raises(ValueError, match="slope: expected a number of at least 0"):
        FusionLoss(slope=-1)


def test_scores_of_bands_by_hand() -> None:
    original = torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 3, 3)
    turned = torch.tensor([0.5, 0.5]).view(2, 1, 1).expand(2, 3, 3)
    assert spectral_angle(turned, original) == pytest.approx(45)
    assert spectral_angle(original, 3 * original) == pytest.approx(0, abs=1e-4)
    assert decibels(turned, original) == pytest.approx(-10 * math.log10(0.25))
    two = torch.tensor([0.5, 0.25]).view(2, 1, 1).expand(2, 3, 3)
    assert relative_error(two * 1.1, two, 4) == pytest.approx(2.5)


@pytest.mark.parametrize(("name", "score"), [("fuse_photos", "ssim"), ("sharpen_photos", "psnr")])
def test_photographs_of_two_train_and_are_shown(name: str, score: str, tmp_path: Path) -> None:
    launch(composed(f"experiment={name}", *FEW, "data.crop=32", "data.eval_crop=64"), tmp_path)
    row = json.loads((tmp_path / "metrics.json").read_text())
    assert row["epochs"][0]["step"] == 2 and math.isfinite(row["test"][score])
    assert Image.open(
        tmp_path / find_task(composed(f"experiment={name}")["task"]).files.__iter__().__next__()
    )
    numbers = evaluation.evaluation([str(tmp_path), "run.limit_batches=2"])
    assert math.isfinite(numbers[score]) and numbers["model_images_per_s"] > 0
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    launch(
        composed(f"experiment={name}", *FEW, "data.crop=32", f"resume={tmp_path}", "run.epochs=2"), tmp_path
    )
    assert type(model).__name__.endswith("FusionMamba")


def test_micro_batches_give_the_same_update(tmp_path: Path) -> None:
    """Also in parts of one picture each."""
    norms = []
    for accumulate in (1, 4):
        cfg = composed("experiment=sharpen_photos", *FEW, "data.crop=32", f"run.accumulate={accumulate}")
        data = build_data(cfg)
        torch.manual_seed(0)
        state = build_state(cfg, data, 2)
        (xs, guides), targets = torch.utils.data.default_collate([data.train[0, i] for i in range(4)])
        train_step(state, given([xs, guides]), targets)
        norms.append(state.norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "task=restore loss=l1",
            "task=restore: it learns from images, but data=fusion_photos has pictures of one scene",
        ),
        ("~model.dims model.model_name=test_spectral_fusion_mamba", "task=fuse needs a model of x and other"),
        ("loss=l1", "loss=l1: task=fuse takes fusion"),
        ("loss={name:fusion,edge:1}", "loss=.*edge"),
        ("aug.mixup.mixup_alpha=1", "aug.mixup.mixup_alpha=1: task=fuse mixes no pictures"),
        ("+model.start=absent.pth", "model.start: .*absent.pth"),
    ],
)
def test_wrong_fusions_are_named(words: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        launch(composed("experiment=fuse_photos", *FEW, *words.split()), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data.scale=2", "takes a picture 4 times as large as the other, the data .* 2 times as large"),
        ("+model.in_chans=5", "takes 5 bands as x, the data .* have 3"),
        ("loss=fusion", "loss=fusion: task=sharpen takes l1 or charbonnier"),
    ],
)
def test_wrong_sharpenings_are_named(words: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        launch(composed("experiment=sharpen_photos", *FEW, *words.split()), tmp_path)


@pytest.mark.parametrize("name", ["multimodal_fusion_mamba", "spectral_fusion_mamba"])
def test_published_recipes_take_two_steps(name: str, tmp_path: Path) -> None:
    """With small networks, on files."""
    if name.startswith("multimodal"):
        make_scenes(tmp_path / "data")
        words = ["data.crop=32", "+model.depths=[1,1]", "+model.decoder_depths=[1,1]", "+model.dims=[8,16]"]
    else:
        make_bands(tmp_path / "data", truth=True)
        words = ["data.crop=16", "+model.dim=8"]
    words += [f"data.root={tmp_path / 'data'}", "data.workers=0", "sched.decay_milestones=[1]"]
    launch(composed(f"experiment={name}", *FEW, *words), tmp_path / "run")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["epochs"][0]["step"] == 2
