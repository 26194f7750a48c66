"""A model is opened by a name, a folder, a file, in one way for all commands."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from vimzoo.compat import mambair
from vimzoo.errors import UsageError
from vimzoo.models import CheckpointError, MambaIR
from vimzoo.models.opening import Found, find_model, open_model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a folder of timm's, and files of a classifier and a restoration model; the working folder."""
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("test_vim", num_classes=3)
    names = {"num_classes": 3, "label_names": ["one", "two", "three"]}
    for folder in ("run/model", "saved"):
        timm.models.save_for_hf(model, folder, {"pretrained_cfg": names})
    torch.save({"model": model.state_dict(), "data": {"classes": ("one", "two", "three")}}, "vim.pth")
    torch.save({"params": mambair.official_state_dict(timm.create_model("test_mambair"))}, "restorer.pth")
    return tmp_path


def same(found: nn.Module, want: nn.Module) -> bool:
    own, others = found.state_dict(), want.state_dict()
    return own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)


@pytest.mark.parametrize("given", ["run", "run/model", "saved", "local-dir:saved"])
def test_folders(given: str, place: Path) -> None:
    assert find_model(given).name == "test_vim" and find_model(given).complete
    model = open_model(given)
    assert same(model, timm.create_model("local-dir:saved", pretrained=True)) and not model.training
    for options in ({"checkpoint": "vim.pth"}, {"random": True}):
        with pytest.raises(UsageError, match=f"{given} has weights of its own"):
            open_model(given, **options)


def test_a_name_with_a_file(place: Path) -> None:
    """The file says how many classes there are."""
    model = open_model("test_vim", "vim.pth")
    assert same(model, open_model("saved")) and model.pretrained_cfg["label_names"] == ("one", "two", "three")
    with pytest.raises(CheckpointError, match="no moving average"):
        open_model("test_vim", "vim.pth", use_ema=True, num_classes=3)
    with pytest.raises(UsageError, match=r"--checkpoint none.pth: no such file"):
        open_model("test_vim", "none.pth")


def test_a_file_alone(place: Path) -> None:
    model = open_model("restorer.pth")
    assert isinstance(model, MambaIR) and same(model, open_model(None, "restorer.pth"))
    with pytest.raises(CheckpointError, match="a classifier"):
        open_model("vim.pth")


def test_names(place: Path) -> None:
    assert find_model("mambair_dn.sigma25") == Found("mambair_dn.sigma25", "mambair_dn", False)
    assert find_model("hf-hub:someone/something") == Found("hf-hub:someone/something", None, True)
    Path("test_vim").mkdir()  # a registered name comes first
    assert not find_model("test_vim").complete
    assert open_model("test_vim", random=True).num_classes == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vim_tny", r"MODEL vim_tny: no such model or folder; similar names: vim_tiny_patch16_224"),
        ("qqqqqqqq", r"no such model or folder; timm.list_models\(\) names all models"),
        (".", r"MODEL \.: no config.json that names a model"),
        ("mambair_dn.sigma99", r"no such weights are known; expected mambair_dn.sigma15, mambair_dn.sigma25"),
        ("vim_digits", r"vim_digits: no published weights of this model are known; give a file"),
        ("", "MODEL: expected a model's name, a folder, or a file"),
    ],
)
def test_what_cannot_be_opened(given: str, message: str, place: Path) -> None:
    with pytest.raises(UsageError, match=message):
        open_model(given, argument="MODEL", hint="give a file")
