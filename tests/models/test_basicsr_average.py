"""Of ``params`` and ``params_ema`` in one file every way of opening it takes the average, unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import vimzoo
from vimzoo.compat import mambair
from vimzoo.convert import convert
from vimzoo.models.opening import open_model
from vimzoo.restoration import restoration_model

NAME = "test_mambair"
Opened = Callable[[Path], Any]


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file of BasicSR's with both, the average's tensors and the trained ones, under our names."""
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    trained = {name: x.clone() for name, x in model.state_dict().items()}
    average = {name: x * 0.5 for name, x in trained.items()}
    content = {}
    for key, state in (("params", trained), ("params_ema", average)):
        model.load_state_dict(state)
        content[key] = {name: x.clone() for name, x in mambair.official_state_dict(model).items()}
    torch.save(content, tmp_path / "net_g_latest.pth")
    return tmp_path / "net_g_latest.pth", average, trained


def by_spandrel(path: Path) -> Any:
    spandrel = pytest.importorskip("spandrel", reason="needs the extra vimzoo[spandrel]")
    import vimzoo.spandrel

    registry = spandrel.MAIN_REGISTRY.copy()
    vimzoo.spandrel.install(registry)
    return spandrel.ModelLoader(registry=registry).load_from_file(path).model


def by_timm(path: Path) -> Any:
    return timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


def by_hand(path: Path, **options: Any) -> Any:
    model = timm.create_model(NAME)
    vimzoo.load_checkpoint(model, path, **options)
    return model


def converted(path: Path, **options: Any) -> Any:
    folder = convert(path, NAME, path.with_name("folder"), **options)
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


WAYS: dict[str, Opened] = {
    "load_restoration": vimzoo.load_restoration,
    "restoration_from_tensors": lambda path: vimzoo.restoration_from_tensors(torch.load(path)),
    "restore": lambda path: restoration_model(None, path),
    "restore by name": lambda path: restoration_model(NAME, path),
    "load_checkpoint": by_hand,
    "create_model": by_timm,
    "convert": converted,
    "spandrel": by_spandrel,
}
TRAINED: dict[str, Opened] = {
    "load_restoration": lambda path: vimzoo.load_restoration(path, use_ema=False),
    "restoration_from_tensors": lambda path: vimzoo.restoration_from_tensors(torch.load(path), use_ema=False),
    "open_model": lambda path: open_model(NAME, path, use_ema=False),
    "load_checkpoint": lambda path: by_hand(path, use_ema=False),
    "convert": lambda path: converted(path, use_ema=False),
}


def same(model: Any, want: dict[str, torch.Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == want.keys() and all(torch.equal(found[name], want[name]) for name in want)


@pytest.mark.parametrize("way", WAYS)
def test_the_average_by_default(way: str, both: tuple) -> None:
    path, average, _ = both
    assert same(WAYS[way](path), average)


@pytest.mark.parametrize("way", TRAINED)
def test_the_trained_weights_on_request(way: str, both: tuple) -> None:
    path, _, trained = both
    assert same(TRAINED[way](path), trained)
