"""``python -m vimzoo.restore`` as a user types it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import ExifTags, Image

from vimzoo.compat import mambair
from vimzoo.models import MambaIRv2
from vimzoo.restoration import Restorer
from vimzoo.restoration.batches import Tiles
from vimzoo.restore import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photograph, two folders of them, and files of weights as the authors save them."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name, size in (("photo.jpg", (20, 30)), ("photos/a.png", (12, 8)), ("photos/deep/b.webp", (9, 14))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name, exif=exif)
    light = mambair.official_state_dict(timm.create_model("test_mambair"))
    torch.save({"params": light}, tmp_path / "light_x2.pth")
    torch.save(
        {"params": {name: tensor * float("nan") for name, tensor in light.items()}}, tmp_path / "nan.pth"
    )
    v2 = MambaIRv2(embed_dim=32, depths=(1,), d_state=4, num_heads=4, window=8, rank=6, num_tokens=10)
    with torch.no_grad():
        v2.groups[0].conv.weight.mul_(20)  # so that routes show
    torch.save({"params": mambair.official_state_dict(v2)}, tmp_path / "v2_dn.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_a_process_of_its_own(place: Path) -> None:
    words = [sys.executable, "-m", "vimzoo.restore", "photos", "out", "--checkpoint", "light_x2.pth"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 restored" and "100%" in done.stderr and "px/s" in done.stderr
    with Image.open(place / "out/deep/b.webp") as image:
        assert image.size == (28, 18) and image.getexif()[ExifTags.Base.Orientation] == 6


def test_without_a_model_the_one_in_the_package_doubles_sides(
    place: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without a network; it names a larger one."""
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("asked the network"))
    assert main(["photos", "out", "--quiet"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert last == "2 restored" and Image.open("out/a.png").size == (16, 24)
    assert (
        first.startswith("model: mambair_mini_x2, super-resolution x2")
        and "--model mambairv2_light_x2" in first
    )
    assert main(["photos/a.png", "clean.png", "--quiet", "--model", "mambair_mini_dn"]) == 0
    assert "--model mambair_dn.sigma25 is better and slower" in capsys.readouterr().out
    assert Image.open("clean.png").size == (8, 12)


def test_results_of_another_model_are_not_taken_for_this_ones(place: Path, capsys) -> None:
    words = ["photos", "out", "--quiet", "--checkpoint"]
    assert main([*words, "light_x2.pth"]) == 0
    before = (place / "out/a.png").read_bytes()
    assert main([*words, "light_x2.pth"]) == 0 and "2 skipped" in capsys.readouterr().out
    assert main([*words, "v2_dn.pth"]) == 2 and main([*words, "light_x2.pth", "--self-ensemble"]) == 2
    said = capsys.readouterr().err
    assert "out were made with other model, weights; expected another folder, or --existing overwrite" in said
    assert "made with other self_ensemble" in said and (place / "out/a.png").read_bytes() == before
    assert main([*words, "v2_dn.pth", "--existing", "overwrite"]) == 0
    assert main([*words, "v2_dn.pth"]) == 0 and main([*words, "light_x2.pth"]) == 2


def test_the_result_is_the_restorers(place: Path) -> None:
    words = [
        "photo.jpg",
        "out.png",
        "--checkpoint",
        "light_x2.pth",
        "--tile",
        "16",
        "--overlap",
        "4",
        "--quiet",
    ]
    assert main([*words, "--batch", "3", "--self-ensemble", "--device", "cpu"]) == 0
    model = timm.create_model("test_mambair")
    model.load_pretrained(place / "light_x2.pth")
    want = Restorer(model, tile=16, overlap=4, self_ensemble=True)(np.asarray(Image.open("photo.jpg")))
    assert np.abs(np.asarray(Image.open("out.png"), int) - want).max() <= 1


def test_seed(place: Path) -> None:
    shown = []
    for name, words in (("a", []), ("b", ["--seed", "0"]), ("c", ["--seed", "1"])):
        assert main(["photo.jpg", f"{name}.png", "--checkpoint", "v2_dn.pth", "--quiet", *words]) == 0
        shown.append(Path(f"{name}.png").read_bytes())
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize("dtype", ("bf16", "float16"))
def test_reduced_precision(place: Path, dtype: str) -> None:
    assert main(["photo.jpg", "a.png", "--checkpoint", "light_x2.pth", "--quiet"]) == 0
    assert main(["photo.jpg", "b.png", "--checkpoint", "light_x2.pth", "--quiet", "--dtype", dtype]) == 0
    full, reduced = (np.asarray(Image.open(f"{name}.png"), float) for name in "ab")
    assert 0 < np.abs(full - reduced).mean() < 1


def test_one_damaged_file_is_listed_and_costs_the_exit_status(place: Path, capsys) -> None:
    (place / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    assert main(["photos", "out", "--checkpoint", "light_x2.pth", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out.strip() == "2 restored, 1 failed"
    assert err.splitlines()[-1].startswith("failed: photos/broken.jpg: ")
    assert main(["photos", "out", "--checkpoint", "light_x2.pth", "--quiet"]) == 1
    assert (
        "0 restored, 2 skipped, as the results exist (--existing overwrite), 1 failed"
        in capsys.readouterr().out
    )
    (place / "photos/broken.jpg").unlink()
    assert main(["photos", "out", "--checkpoint", "light_x2.pth", "--quiet", "--existing", "overwrite"]) == 0
    assert capsys.readouterr().out.strip() == "2 restored"


def test_another_format_and_its_quality(place: Path) -> None:
    words = ["photos", "out", "--checkpoint", "light_x2.pth", "--quiet", "--format", "jpg"]
    sizes = []
    for quality in ("10", "95"):
        assert main([*words, "--quality", quality, "--existing", "overwrite"]) == 0
        sizes.append((place / "out/deep/b.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("words", "says"),
    (
        (
            ["--model", "mambair_lite_x2"],
            "--model mambair_lite_x2: no such model or folder; similar names: mambair_light_x",
        ),
        (["--model", "vim_tiny_patch16_224"], "vim_tiny_patch16_224: no such restoration model"),
        (["--model", "mambair_light_x2"], "no published weights of this model are known; --checkpoint FILE"),
        (["--model", "mambair_light_x3"], "published are those of mambair"),
        (
            ["--model", "mambair_dn.sigma99"],
            "expected mambair_dn.sigma15, mambair_dn.sigma25",
        ),
        (["--model", "mambair_dn", "--ema"], "--ema"),
        (["--checkpoint", "missing.pth"], "missing.pth: no such file"),
        (["--checkpoint", "photo.jpg"], "looks like a JPEG image"),
        (["--checkpoint", "light_x2.pth", "--ema"], "no moving average"),
        (["--checkpoint", "nan.pth"], "holds NaN or infinity"),
        (["--checkpoint", "light_x2.pth", "--device", "cuda:99"], "--device cuda:99: not available"),
        (["--checkpoint", "light_x2.pth", "--device", "toaster"], "--device toaster: not available"),
        (
            ["--checkpoint", "light_x2.pth", "--tile", "16", "--overlap", "9"],
            "overlap: expected 0 to half a tile",
        ),
    ),
)
def test_what_cannot_be_done_is_said_before_any_work(place: Path, capsys, words: list, says: str) -> None:
    before = sorted(place.rglob("*"))
    assert main(["photos", "out", "--quiet", *words]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: ") and not out
    assert sorted(place.rglob("*")) == before


def test_weights_out_of_reach(place: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    monkeypatch.setattr("vimzoo.models.weights.hub.unreachable", lambda address: None)
    assert main(["photos", "out", "--model", "mambairv2_light_x2"]) == 2
    err = capsys.readouterr().err
    assert "mambairv2_light_x2: ConnectionError: no route to host; --checkpoint FILE" in err


def test_weights_from_the_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads to the authors' file, and the file into the model."""
    asked = []

    def download(repository: str, filename: str, **_: object) -> str:
        asked.append((repository, filename))
        torch.save({"params": mambair.official_state_dict(timm.create_model("mambairv2_light_x2"))}, filename)
        return str(place / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    monkeypatch.setattr("vimzoo.models.weights.hub.unreachable", lambda address: None)
    assert main(["photos/a.png", "out.png", "--model", "mambairv2_light_x2", "--quiet"]) == 0
    assert asked == [("cguoh/MambaIR", "mambairv2_lightSR_x2.pth")]
    assert Image.open("out.png").size == (16, 24)


@pytest.mark.parametrize(
    "words",
    (
        [], ["photos"], ["photos", "out", "--model", "a", "--checkpoint", "b"],
        *(["photos", "out", "--checkpoint", "light_x2.pth", *more] for more in (
            ["--tile", "big"], ["--tile", "0"], ["--overlap", "-1"], ["--batch", "0"], ["--dtype", "float8"],
            ["--quality", "101"], ["--seed", "x"], ["--existing", "ask"], ["--format", "gif"],
        )),
    ),
)  # fmt: skip
def test_mistakes_in_the_arguments(place: Path, words: list) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and not (place / "out").exists()


def test_an_interruption_leaves_whole_files_only(
    place: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Restorer, asked: Tiles) -> torch.Tensor:
        if asked.tiles.shape[2:] == (9, 14):
            raise KeyboardInterrupt
        return asked.tiles.float().div(255).repeat_interleave(2, 2).repeat_interleave(2, 3)

    monkeypatch.setattr(Restorer, "run", interrupted)
    assert main(["photos", "out", "--checkpoint", "light_x2.pth", "--quiet"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in (place / "out").rglob("[!.]*") if path.is_file()] == ["a.png"]
