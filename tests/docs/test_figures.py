"""The scripts behind the figures of the documents draw what they say."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from vimzoo.engine import launch
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.ops import BIDIRECTIONAL

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """Its functions, without drawing."""
    pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
    return runpy.run_path(str(FIGURES / "draw_scan_paths.py"), run_name="figures")


def test_every_path_is_drawn(script: dict[str, Any], tmp_path: Path) -> None:
    script["scan_paths_figure"].__globals__["HERE"] = tmp_path
    script["scan_paths_figure"]()
    assert (tmp_path / "scan_paths.png").stat().st_size > 10_000
    assert {path.name for path in FIGURES.glob("*.png")} == {
        "scan_paths.png",
        "receptive_field.png",
        "restore.png",
        "explain_cam.png",
        "explain_mixing.png",
        "explain_field.png",
        "speed.png",
    }


def test_the_figure_of_speed_is_of_the_recorded_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
    folder = min(file.parent for file in FIGURES.parents[1].glob("benchmarks/results/*/cpu_runtimes.json"))
    monkeypatch.setattr("sys.argv", ["draw_speed.py", str(folder)])
    drawing = runpy.run_path(str(FIGURES / "draw_speed.py"), run_name="figures")
    drawing["main"].__globals__["HERE"] = tmp_path
    drawing["main"]()
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_receptive_field(script: dict[str, Any]) -> None:
    """Rows both ways: the centre sees everything, itself most, its row more than its column; one way, half the map."""
    both = script["receptive_field"](BIDIRECTIONAL, 9, rounds=2)
    assert both.argmax() == 40 and (both > 0).all() and both[4].sum() > 2 * both[:, 4].sum() - both[4, 4]
    forward = script["receptive_field"](BIDIRECTIONAL[:1], 9, rounds=1).ravel()
    assert np.array_equal(forward > 0, np.arange(81) <= 40)


def test_explaining_figures(tmp_path: Path) -> None:
    """Of models that are not trained, and small ones."""
    pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
    script = runpy.run_path(str(FIGURES / "draw_explain.py"), run_name="figures")
    model, images = timm.create_model("vim_digits").eval(), torch.rand(2, 3, 16, 16)
    script["mixing_figure"](model, images[0], tmp_path / "mixing.png")
    script["field_figure"].__globals__.update(UNTRAINED=("test_vim",), SIDE=64)
    script["field_figure"](model, images, tmp_path / "field.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("mixing.png", "field.png"))


@pytest.mark.slow
def test_restored_photographs(tmp_path: Path) -> None:
    """Of a run as short as can be."""
    words = [
        "data.eval_crop=300",
        "model.depths=[1]",
        "run.epochs=1",
        "run.limit_batches=1",
        "run.device=cpu",
    ]
    launch(composed_settings(["experiment=photos_denoise", *words]), tmp_path)
    script = runpy.run_path(str(FIGURES / "draw_restore.py"), run_name="figures")
    script["restore_figure"](tmp_path, tmp_path / "restore.png")
    assert (tmp_path / "restore.png").stat().st_size > 10_000
