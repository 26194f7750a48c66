"""A model of two pictures applied to files: ``python -m vimzoo.restore INPUT OUTPUT --with OTHER``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image

from vimzoo.models.inputs import ModelWithInputs
from vimzoo.restoration import Picture, Restorer, read_picture, write_picture
from vimzoo.restoration.batches import run_alone
from vimzoo.restoration.two_pictures import OfTwo, joining
from vimzoo.restore import main


def saved(model: Any, folder: Path) -> Path:
    """A folder that `open_model` opens."""
    timm.models.save_for_hf(model, folder, model_config=model.pretrained_cfg)
    return folder


def made(name: str, **options: Any) -> ModelWithInputs:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def picture(channels: int, height: int, width: int, seed: int, dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Colour pictures by visible light, grey ones by infrared."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_at("vis", f"{number}.png", picture(3, 40, 50, number))
        write_at("ir", f"{number}.tif", picture(1, 40, 50, 10 + number))
    return tmp_path


def write_at(folder: str, name: str, pixels: np.ndarray) -> None:
    Path(folder).mkdir(exist_ok=True)
    write_picture(Picture(pixels), Path(folder) / name)


def test_pictures_are_joined_in_grey_and_keep_their_colours(scenes: Path, capsys: Any) -> None:
    """Equal to the network on the whole picture, padded; again the same command has nothing to do."""
    words = ["vis", "fused", "--with", "ir", "--model", "model", "--quiet"]
    model = made("test_multimodal_fusion_mamba")
    saved(model, scenes / "model")
    assert main(words) == 0
    vis = np.asarray(Image.open("vis/1.png")).astype(np.float32) / 255
    ir = tifffile.imread("ir/1.tif").astype(np.float32) / 255
    grey = vis @ np.float32([0.299, 0.587, 0.114])
    step = model.multiple_of
    pad = [(0, -side % step) for side in grey.shape]
    given = [torch.from_numpy(np.pad(x, pad, "reflect"))[None, None] for x in (ir, grey)]
    with torch.inference_mode():
        joined = model(*given)[0, 0, :40, :50].numpy()
    expected = np.rint(joined[..., None] * 255 + (vis - grey[..., None]) * 255).clip(0, 255)
    found = np.asarray(Image.open("fused/1.png")).astype(int)
    assert found.shape == (40, 50, 3) and np.abs(found - expected).max() <= 1
    capsys.readouterr()
    assert main(words) == 0 and "0 restored, 3 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_many_bands_are_sharpened(dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the numbers of the file: of 11 bits, with the peak that is given or that of the run."""
    monkeypatch.chdir(tmp_path)
    peak = 2047 if dtype == np.uint16 else 200
    model = made("test_spectral_fusion_mamba", in_chans=5)
    saved(model, tmp_path / "model")
    rng = np.random.default_rng(0)
    ms, pan = (rng.integers(0, peak, size).astype(dtype) for size in ((12, 16, 5), (48, 64)))
    tifffile.imwrite("ms.tif", ms, photometric="minisblack", planarconfig="contig", extrasamples=[0] * 4)
    tifffile.imwrite("pan.tif", pan, photometric="minisblack")
    words = ["ms.tif", "out.tif", "--with", "pan.tif", "--model", "model", "--peak", str(peak), "--quiet"]
    assert main(words) == 0
    given = [torch.from_numpy(x.astype(np.float32) / peak) for x in (ms, pan[..., None])]
    with torch.inference_mode():
        expected = model(*(x.permute(2, 0, 1)[None] for x in given))[0].permute(1, 2, 0).numpy() * peak
    found = tifffile.imread("out.tif")
    assert found.shape == (48, 64, 5) and found.dtype == dtype
    (tmp_path / "model" / "config.yaml").write_text(f"data: {{peak: {peak}}}")
    assert main([*words[:1], "again.tif", *words[2:6], "--quiet"]) == 0
    assert np.array_equal(tifffile.imread("again.tif"), found)
    limit = np.iinfo(dtype).max
    assert np.abs(found.astype(float) - np.rint(expected).clip(0, limit)).max() <= 1


def test_alpha_tiles_and_metadata(scenes: Path) -> None:
    """Tiles make nearly the same picture; alpha is that of the first picture."""
    model = OfTwo(made("test_multimodal_fusion_mamba"))
    pixels = picture(4, 64, 96, 0)
    both = Picture(pixels, dpi=(72.0, 72.0), other=Picture(picture(3, 64, 96, 1)))
    restorer = Restorer(model, tile="none")
    whole = run_alone(joining(both, restorer), restorer.run)
    assert np.array_equal(whole.pixels[..., 3], pixels[..., 3]) and whole.dpi == both.dpi
    tiled = Restorer(model, tile=64, batch=2)
    parts = run_alone(joining(both, tiled), tiled.run)
    assert parts.pixels.shape == whole.pixels.shape


@pytest.mark.parametrize(
    ("words", "says"),
    (
        (["vis", "out", "--with", "none", "--model", "M"], "no such file or folder"),
        (["vis", "out", "--with", "ir/0.tif", "--model", "M"], "expected a folder"),
        (["vis", "out", "--with", "ir"], "--with: expected --model"),
        (["vis", "out", "--model", "M"], "the second one by --with"),
        (["vis", "out", "--with", "ir", "--model", "test_mambair"], "takes one picture"),
        (["vis", "ir", "--with", "ir", "--model", "M", "--format", "tif"], "would replace a picture"),
        (["vis", "out", "--peak", "3", "--model", "M"], "--peak 3: expected with --with"),
        (["vis", "out", "--with", "few", "--model", "M"], "files without a partner (2)"),
        (["vis/0.png", "out", "--with", "ir", "--model", "M"], "expected a file"),
    ),
)
def test_impossible_requests(words: list[str], says: str, scenes: Path, capsys: Any) -> None:
    saved(made("test_multimodal_fusion_mamba"), scenes / "M")
    saved(timm.create_model("test_mambair"), scenes / "one")
    write_at("few", "1.png", picture(1, 40, 50, 0))
    words = ["one" if word == "test_mambair" else word for word in words]
    assert main([*words, "--quiet"]) == 2
    assert says in capsys.readouterr().err and not (scenes / "out").exists()


def test_pictures_that_do_not_fit(scenes: Path, capsys: Any) -> None:
    saved(made("test_multimodal_fusion_mamba"), scenes / "M")
    write_at("ir", "1.tif", picture(1, 40, 51, 0))
    assert main(["vis", "out", "--with", "ir", "--model", "M", "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "40 x 50 pixels, and the other picture has 40 x 51; expected as many" in said
    assert read_picture(Path("out/0.png")).pixels.shape == (40, 50, 3) and not Path("out/1.png").exists()
