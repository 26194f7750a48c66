"""Tools that trace a model with ``torch.jit.trace``, or read the file that we export."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from vimzoo import exporting

pytestmark = pytest.mark.filterwarnings("ignore")
MODELS = {"test_vim": 64, "test_vmamba": 64, "test_mambair": 16}
"""The side of their images."""


@pytest.mark.parametrize("name", MODELS)
def test_tensorboard_draws_the_graph(name: str, tmp_path: Path) -> None:
    """In training mode, as models are when a run begins."""
    board = pytest.importorskip("torch.utils.tensorboard")
    model = timm.create_model(name)
    with board.SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(model, torch.rand(1, 3, MODELS[name], MODELS[name]))
    (file,) = tmp_path.iterdir()
    assert b"vimzoo::scan_paths" in file.read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_lightning_logs_the_graph(name: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = timm.create_model(name)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(Module(), torch.rand(1, 3, MODELS[name], MODELS[name]))
    logger.finalize("success")
    assert any(b"vimzoo::scan_paths" in path.read_bytes() for path in tmp_path.rglob("events*"))


@pytest.mark.parametrize("name", MODELS)
def test_openvino_runs_the_exported_file(name: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model, side = timm.create_model(name).eval(), MODELS[name]
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    _, plain = exporting.export(name, "onnx", tmp_path / "model.onnx", checkpoint=weights, inline=True)
    run = openvino.Core().compile_model(plain.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in ((1, 3, side, side), (2, 3, side, side)):
        images = torch.rand(shape)
        with torch.no_grad():
            wanted = model(images)
        found = torch.from_numpy(run(images.numpy())[0])
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 3e-5 * wanted.std()


@pytest.mark.parametrize("name", MODELS)
def test_openvino_names_our_operators_if_it_traces(name: str) -> None:
    """It has no rules for them; docs/export.md says what to do instead."""
    openvino = pytest.importorskip("openvino")
    model = timm.create_model(name).eval()
    with pytest.raises(Exception, match=r"No conversion rule found for operations: .*vimzoo::scan_paths"):
        openvino.convert_model(model, example_input=torch.rand(1, 3, MODELS[name], MODELS[name]))
