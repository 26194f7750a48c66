"""Everything that reads best.pt takes the weights that the run evaluated, and so chose as the best."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from trainer_helpers import same_tensors, small

import vimzoo
from vimzoo import eval as eval_command
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.models.weights.reader import read_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "prediction_sheet", lambda *_: None)
        patch.setattr(report, "curves", lambda *_: None)
        launch(small("model.model_name=test_vim", "data.img_size=16"), out)
    return out


def test_readers_of_best_take_the_average(run: Any) -> None:
    content = checkpoint.read(run / "best.pt")
    average, trained = dict(content["model_ema"]), dict(content["model"])
    assert not same_tensors(average, trained)
    assert same_tensors(read_checkpoint(run / "best.pt"), average)
    assert same_tensors(read_checkpoint(run / "best.pt", use_ema=False), trained)
    cfg = small("model.model_name=test_vim", "data.img_size=16", f"+model.start={run / 'best.pt'}")
    model = classification.build_model(cfg, build_data(cfg))
    assert same_tensors(dict(model.state_dict()), average)
    vimzoo.load_checkpoint(model, run / "best.pt", use_ema=False)
    assert same_tensors(dict(model.state_dict()), trained)
    saved = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
    assert same_tensors(dict(saved.state_dict()), average)


def test_evaluation_of_best_is_that_of_its_run(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command for a file of weights and the command for a run; both take all test images."""
    settings = [
        "model=timm",
        "model.model_name=test_vim",
        "data.img_size=16",
        "run.device=cpu",
        "data.batch_size=32",
    ]
    settings.append(f"+model.start={run / 'best.pt'}")
    numbers = []
    for words in ([str(run)], settings):
        assert eval_command.main([*words, "--json", "--out", str(tmp_path)]) == 0
        numbers.append(json.loads(capsys.readouterr().out))
    assert numbers[0]["loss"] == pytest.approx(numbers[1]["loss"], abs=1e-6)
    assert numbers[0]["images"] == numbers[1]["images"]


def test_a_file_of_others_gives_its_trained_weights(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2)}
    torch.save(
        {"model": weights, "model_ema": {"a": torch.zeros(2)}, "epoch": 3, "best": 1.0}, tmp_path / "x.pth"
    )
    assert same_tensors(read_checkpoint(tmp_path / "x.pth"), weights)
