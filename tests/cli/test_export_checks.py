"""Written files are compared with PyTorch: wrong numbers are not kept, and routes may move a few tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from exported import spread_error
from torch import nn

from vimzoo import export, exporting
from vimzoo.exporting import FORMATS, check
from vimzoo.exporting.record import Run, Runtime
from vimzoo.models.export_options import ExportOptions


def test_a_file_with_other_numbers_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pt2 = FORMATS["pt2"]
    monkeypatch.setitem(FORMATS, "pt2", replace(pt2, load=lambda path: lambda x: pt2.load(path)(x) * 1.001))
    with pytest.raises(export.ExportError, match=r"differs from PyTorch by .*e-0\d"):
        export.export("test_vim", "pt2", tmp_path / "model.pt2", random=True)
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_runtime_computes_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenVINO did with files of fixed sizes, without a word."""
    ts = FORMATS["torchscript"]

    def other(path: Path, shape: tuple[tuple[int, ...], ...] | None) -> Run:
        return lambda images: ts.load(path)(images) * (1.02 if shape else 1)

    monkeypatch.setitem(FORMATS, "torchscript", replace(ts, others=(Runtime("another", ("torch",), other),)))
    with pytest.raises(export.ExportError, match=r"PyTorch in another with fixed sizes by .*e-02 of"):
        export.export("test_vim", "torchscript", tmp_path / "model.ts", random=True)
    assert not list(tmp_path.iterdir())


def test_a_missing_number_is_the_largest_difference() -> None:
    """Also if it comes on the first shape, or on a later one."""
    for wrong in (1, 2):
        found = check.compare(
            lambda x, wrong=wrong: x * torch.nan if len(x) == wrong else x,
            nn.Identity(),
            [((1, 9),), ((2, 9),)],
        )
        assert found.difference == torch.inf and found.shapes == ((wrong, 9),)


@pytest.mark.parametrize(("spoilt", "wrong"), [(10, 1.0), (100, 1.0), (10, torch.nan)])
def test_routing_may_move_a_few_tokens(spoilt: int, wrong: float) -> None:
    """Of a model that routes, 5 % of the values may differ, but none be missing; of another none may differ."""

    def run(images: torch.Tensor) -> torch.Tensor:
        output = images.clone()
        output.flatten()[:spoilt] += wrong
        return output

    class Routed(nn.Identity):
        export_options = ExportOptions(agreement=0.95)

    shapes = ((1, 1, 20, 50),)
    assert not check.compare(run, nn.Identity(), [shapes]).difference <= check.BOUND
    few = spoilt <= 50 and wrong == 1
    assert (check.compare(run, Routed(), [shapes]).difference <= check.BOUND) == few


def test_a_model_that_draws_random_routes_is_written_without(tmp_path: Path) -> None:
    """MambaIRv2 says so itself; the exporter knows no model's name."""
    sizes: dict[str, Any] = {
        "embed_dim": 16,
        "depths": (1,),
        "num_heads": 2,
        "window": 8,
        "d_state": 4,
        "rank": 4,
        "num_tokens": 6,
    }
    model: Any = timm.create_model("mambairv2_light_x2", **sizes).eval()
    timm.models.save_for_hf(model, str(tmp_path / "saved"), {"model_args": sizes})
    path = tmp_path / "model.ts"
    (written,) = export.export(str(tmp_path / "saved"), "torchscript", str(path), size=(16, 24))
    assert written.worst.share == 0.95
    run, images = exporting.load(path, "torchscript"), torch.rand(1, 3, 16, 24)
    assert torch.equal(run(images), run(images))
    model.routing = "argmax"
    with torch.no_grad():
        assert spread_error(run(images), model(images)) < 3e-5
