"""Folders by URL, through fsspec: what is read and written, skipped, refused, and never half there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from picture_files import DEEP, Same, noise
from PIL import Image

from vimzoo import predict, restore
from vimzoo.compat import mambair
from vimzoo.data.images.remote import Remote
from vimzoo.restoration import Picture, Restorer, read_picture, write_picture
from vimzoo.restoration.stream import Options
from vimzoo.restoration.urls import UrlFolder

OPTIONS = Options(95, 10_000, "restore", "refuse")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in" / "be low").mkdir(parents=True)
    for name in ("a.png", "be low/b.jpg", "be low/.hidden.png"):
        Image.fromarray(noise(3)).save(tmp_path / "in" / name)
    write_picture(Picture(DEEP), tmp_path / "in" / "deep.tif")
    Image.fromarray(noise(3)).save(tmp_path / "in" / "c.bmp")
    (tmp_path / "in" / "notes.txt").touch()
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ("file://{}", "{}"))
def test_a_folder_by_url(kind: str, source: Path) -> None:
    folder = UrlFolder(kind.format(source), kind.format(source / "out"))
    names, others = folder.find()
    assert names == ["a.png", "be low/b.jpg", "c.bmp", "deep.tif"] and dict(others) == {".txt": 1}
    assert folder.done(names) == []
    (source / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (source / "large.png").write_bytes((source / "a.png").read_bytes())
    Image.fromarray(np.zeros((200, 200), np.uint8)).save(source / "large.png")
    reasons = folder.restore([*names, "torn.png", "large.png", "gone.png"], Same(2), OPTIONS)
    assert reasons[:4] == [""] * 4 and "damaged" in reasons[4]
    assert "expected at most 10000" in reasons[5] and "no such file" in reasons[6]
    results = [path for path in (source / "out").rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(source / "out")) for path in results) == [
        "a.png", "be low/b.jpg", "c.bmp.png", "deep.tif",
    ]  # fmt: skip
    assert np.array_equal(read_picture(source / "out/deep.tif").pixels, DEEP.repeat(2, 0).repeat(2, 1))
    assert folder.done(names) == names and folder.find()[0] == sorted([*names, "torn.png", "large.png"])


def test_impossible_folders_are_refused(source: Path) -> None:
    with pytest.raises(ValueError, match="would replace the pictures"):
        UrlFolder(f"file://{source}", f"file://{source}/").find()
    with pytest.raises(ValueError, match=r"a\.(bmp|png) and a\.(bmp|png) would both become a\.webp"):
        Image.fromarray(noise(3)).save(source / "a.bmp")
        UrlFolder(f"file://{source}", f"file://{source}2", ".webp").find()
    (source.parent / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in it"):
        UrlFolder(f"file://{source.parent}/empty", f"file://{source.parent}/x").find()


def test_results_of_another_model_are_refused(source: Path, small: Any) -> None:
    folder = UrlFolder(f"file://{source}", f"file://{source.parent}/out")
    model = small("light_x2")
    folder.claim(Restorer(model), skipped=False)
    folder.claim(Restorer(model), skipped=True)
    with pytest.raises(ValueError, match="made with other self_ensemble"):
        folder.claim(Restorer(model, self_ensemble=True), skipped=True)
    with pytest.raises(ValueError, match="made with other weights"):
        folder.claim(Restorer(small("dn")), skipped=True)


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(f"file://{tmp_path}/new")
    remote.write("deep/a.bin", b"first")
    assert (tmp_path / "new/deep/a.bin").read_bytes() == b"first"

    def failing(self: Any, path: str, data: bytes, **_: object) -> None:
        Path(path.removeprefix("file://")).write_bytes(data[:2])
        raise PermissionError("the disk is full")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", failing)
    with pytest.raises(Exception, match="the disk is full"):
        remote.write("deep/a.bin", b"second")
    assert (tmp_path / "new/deep/a.bin").read_bytes() == b"first"


def test_the_command_over_a_cluster_of_one(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for Ray, which tests/crossings/test_ray.py has."""

    def here(make: Any, names: list[str], workers: int | None) -> Any:
        return zip(names, make()(names), strict=True)

    monkeypatch.setattr(restore, "over_cluster", here)
    weights = mambair.official_state_dict(timm.create_model("test_mambair"))
    torch.save({"params": weights}, source.parent / "x2.pth")
    out = source.parent / "out"
    words = [f"file://{source}", f"file://{out}", "--checkpoint", str(source.parent / "x2.pth"), "--quiet"]
    assert restore.main([*words, "--engine", "ray", "--format", "png"]) == 0
    assert capsys.readouterr().out == "4 restored\n"
    assert read_picture(out / "be low/b.png").pixels.shape == (18, 28, 3)
    (out / "a.png").unlink()
    (source / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert restore.main([str(source), str(out), *words[2:], "--engine", "ray", "--format", "png"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("1 restored, 3 skipped") and "failed: torn.png: damaged" in said.err


def test_urls_and_clusters_of_the_commands(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore.main([f"file://{source}", "out", "--checkpoint", "x"]) == 2
    assert "--engine ray takes URLs" in capsys.readouterr().err
    assert predict.main([str(source), "--engine", "ray", "--model", "test_vim"]) == 2
    assert "--output, --engine: expected both or neither" in capsys.readouterr().err
    words = [str(source), "out", "--checkpoint", "x", "--engine", "ray", "--device", "cpu"]
    assert restore.main(words) == 2 and "--device: expected without --engine ray" in capsys.readouterr().err
    words = [str(source), "out", "--checkpoint", "x", "--engine", "ray", "--devices", "cpu,cpu"]
    assert restore.main(words) == 2 and "as Ray starts the processes" in capsys.readouterr().err
    words = [str(source), "--engine", "ray", "--output", "found", "--device", "cpu"]
    assert predict.main(words) == 2 and "which chooses the devices" in capsys.readouterr().err
    words = ["s3://bucket/in", "s3://bucket/out", "--checkpoint", "x", "--engine", "ray"]
    assert restore.main([*words, "--crf", "3"]) == 2 and "an option for films" in capsys.readouterr().err
    assert restore.main(["s3://bucket/film.mp4", *words[1:]]) == 2
    assert "takes folders of pictures" in capsys.readouterr().err
