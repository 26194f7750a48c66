"""``python -m vimzoo.eval`` of files that `vimzoo.export` wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from exported import CLASSES, FACTS, Doubler, network, picture, written
from PIL import Image
from torch import nn

from vimzoo import eval as eval_command
from vimzoo import predict
from vimzoo.engine.tasks import classification
from vimzoo.engine.tasks.restoration import measured
from vimzoo.exporting import FORMATS, Source

pytest.importorskip("onnx", reason="needs the extra vimzoo[export]")
PICTURES = ["data=folder", "data.test_fraction=1", "data.root=pictures"]
SAME = ["data=paired", "data.test_fraction=1", "data.root=same"]
ALL = ["data.test_fraction=1", "data.workers=0", "--json"]


@pytest.fixture(scope="module")
def place(files: Path) -> Path:
    """Files of models, two pictures of each of three classes, and a pair of pictures."""
    folder = files
    written("classifier", "onnx", folder, 20)
    digits = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 10)).eval()
    facts = {"num_classes": 10, "input_size": (1, 16, 16)}
    FORMATS["onnx"].save(Source(digits, torch.rand(2, 1, 16, 16), True, facts), folder / "digits.onnx")
    for number, name in enumerate(CLASSES[1:4]):
        (folder / "pictures" / name).mkdir(parents=True)
        for index in range(2):
            picture(folder / "pictures" / name / f"{index}.png", 30 + 5 * number, 40 - 7 * index)
    for kind, side in (("low", 24), ("high", 48)):
        (folder / "pairs" / kind).mkdir(parents=True)
        picture(folder / "pairs" / kind / "a.png", side, side)
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the slowest part."""
    for module in (eval_command, classification):
        monkeypatch.setattr(module, "drawn", lambda *given: None)


def evaluated(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert eval_command.main([*words, *ALL, "--out", str(place / "out")]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["--runtime", "onnxruntime", "run.device=cpu"]])
def test_classifier(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepared as the file says, and with its class numbers, three of five of which the pictures have."""
    model: Any = network("classifier")
    model.pretrained_cfg, model.num_classes = FACTS["classifier"], 5
    pictures, losses, hits = sorted((place / "pictures").rglob("*.png")), [], []
    for file, answer in zip(pictures, predict.predictions(model, pictures), strict=True):
        found = {entry["class"]: entry["probability"] for entry in answer["classes"]}
        losses.append(-math.log(found[file.parent.name]))
        hits.append(answer["classes"][0]["class"] == file.parent.name)
    given = ["--model", str(place / "classifier.onnx"), "data=folder", f"data.root={place / 'pictures'}"]
    numbers = evaluated([*given, *words], place, capsys)
    assert numbers["images"] == 6 and numbers["crop_pct"] == 0.9
    assert numbers["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert numbers["top1"] == pytest.approx(100 * np.mean(hits))


def test_restoration(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = (np.asarray(Image.open(place / "pairs" / kind / "a.png")) for kind in ("low", "high"))
    images = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255 for pixels in (low, high))
    given, want = images
    words = [
        "--model",
        str(place / "restorer.onnx"),
        "task=restore",
        "data=paired",
        f"data.root={place / 'pairs'}",
    ]
    numbers = evaluated(words, place, capsys)
    assert numbers["psnr"] == pytest.approx(measured(Doubler()(given)[0], want[0], 2)[0], abs=0.01)


def test_images_of_a_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's data; its own evaluation is left alone. The file names no classes, so they go by number."""
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(eval_command.classes, "warn", lambda message: said.append(message))
    said: list[str] = []
    cfg = eval_command.composed_settings(["data=digits", "data.test_fraction=0.5"])
    (run / "config.yaml").write_text(yaml.safe_dump(cfg))
    file = eval_command.EvaluatedFile(place / "digits.onnx", "onnxruntime")
    numbers = eval_command.evaluation([str(run)], file=file)
    assert numbers["images"] == 898 and numbers["folder"] == str(run / "eval-digits")
    assert not (run / "eval").exists() and "matched by number" in said[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classifier.onnx", "task=restore"], "a classifier; expected a file for task=restore"),
        (["restorer.onnx", "data=digits"], "a restoration model; expected a file for task=classify"),
        (["restorer16.onnx", "task=restore"], "takes images of 16 x 16 pixels only; expected a file for any size"),
        (["classifier20.onnx", *PICTURES], "takes images of 20 x 20 pixels only, got 24"),
        (["digits.onnx", *PICTURES], "expected as many classes, got 10 and 3"),
        (["classifier.onnx", "data=digits"], "classifier.onnx has 5 classes (ant, bee"),
        (["restorer.onnx", "task=restore", *SAME], "expected one scale, got 2 and 1"),
        (["classifier.onnx", "run.device=cuda"], "run.device=cuda: classifier.onnx is an exported file"),
        (["classifier.onnx", "run.amp=bf16"], "run.amp=bf16: onnxruntime computes classifier.onnx in float32"),
        (["classifier.onnx", "--routing", "argmax"], "--routing argmax: classifier.onnx is an exported file"),
        (["test_vim", "--runtime", "openvino"], "--model FILE (.xml or .onnx) that vimzoo.export wrote, got test_vim"),
    ],
)  # fmt: skip
def test_what_is_refused(
    words: list[str], message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    if words[-1] == SAME[-1]:
        for kind in ("low", "high"):
            (place / "same" / kind).mkdir(parents=True)
            picture(place / "same" / kind / "a.png", 24, 24)
    assert eval_command.main(["--model", *words]) == 2
    assert message in capsys.readouterr().err
