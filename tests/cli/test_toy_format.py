"""A format in a file of its own, which the command writes, checks and lists without knowing it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch

from vimzoo import export, exporting
from vimzoo.exporting import FORMATS, formats
from vimzoo.records import records

TOY = """
import torch
from vimzoo.exporting import Format, Variant

def save(source, path):
    images = torch.rand(1, *source.example.shape[1:])
    with torch.no_grad():
        torch.save({"images": images, "output": source.model(images), **source.metadata}, path)

def load(path):
    kept = torch.load(path)
    def run(images):
        model = __import__("timm").create_model(kept["model"]).eval()
        model.load_state_dict(torch.load(path.with_name("weights")))
        with torch.no_grad():
            return model(images)
    return run

FORMAT = Format("toy", ".toy", save, load, "nothing but this test", "none", requires=("torch",),
                variants={"twice": Variant(".twice", lambda path, to: to.write_bytes(path.read_bytes()), "once more")})
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[exporting.Format]:
    """A format in a file of its own, put where the others are."""
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "toy.py").write_text(TOY)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    found = {format.name: format for format in records(formats.__name__, "FORMAT")}
    monkeypatch.setitem(FORMATS, "toy", found["toy"])
    yield found["toy"]
    sys.modules.pop("vimzoo.exporting.formats.toy", None)


def test_a_format_is_one_file(
    toy: exporting.Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes, checks and lists a format that it has never heard of, with an option of its own."""
    model = timm.create_model("test_vim").eval()
    torch.save(model.state_dict(), tmp_path / "weights")
    path = tmp_path / "model.toy"
    words = ["test_vim", "--checkpoint", str(tmp_path / "weights"), "--output", str(path), "--size", "64"]
    assert export.main([*words, "--format", "toy", "--twice"]) == 0
    assert path.is_file() and path.with_suffix(".twice").read_bytes() == path.read_bytes()
    assert "model.twice" in capsys.readouterr().out
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exporting.load(path, "toy")(images), model(images))
    with pytest.raises(SystemExit):
        export.main(["--help"])
    said = capsys.readouterr().out
    assert "nothing but this test" in said and "--twice" in said
    assert export.main([*words, "--format", "pt2", "--twice"]) == 2
    assert "--twice: needs --format toy, got pt2" in capsys.readouterr().err
