"""Commands take files that `vimzoo.export` wrote in the place of models; tests/crossings has those of OpenVINO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from exported import CLASSES, FACTS, network, picture, restored
from PIL import Image

from vimzoo import demo, exporting, predict, restore
from vimzoo.exporting import running, writing
from vimzoo.exporting.record import Source

onnx = pytest.importorskip("onnx", reason="needs the extra vimzoo[export]")


def wanted(files: Path) -> dict[str, float]:
    """Probabilities of the picture's classes, computed by PyTorch."""
    model: Any = network("classifier")
    model.pretrained_cfg, model.num_classes = FACTS["classifier"], 5
    (answer,) = predict.predictions(model, [files / "picture.png"])
    return {entry["class"]: entry["probability"] for entry in answer["classes"]}


@pytest.mark.parametrize("words", [[], ["--runtime", "onnxruntime"], ["--device", "cpu"]])
def test_predict(files: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the preparation and the classes that the file itself names."""
    given = [str(files / "picture.png"), "--model", str(files / "classifier.onnx"), "--json", *words]
    assert predict.main(given) == 0
    found = {entry["class"]: entry["probability"] for entry in json.loads(capsys.readouterr().out)["classes"]}
    assert list(found) == list(wanted(files)) and set(found) == set(CLASSES)
    assert found == pytest.approx(wanted(files), abs=1e-6) and max(found.values()) < 0.99


@pytest.mark.parametrize("size", [None, 16])
def test_restore(files: Path, size: int | None, tmp_path: Path) -> None:
    """In tiles, and in tiles of the only size that a file takes; equal but for rounding to whole numbers."""
    file, picture = files / f"restorer{size or ''}.onnx", files / "picture.png"
    words = [str(picture), str(tmp_path / "out.png"), "--quiet", "--model", str(file)]
    assert restore.main([*words, *([] if size else ["--tile", "20", "--overlap", "6"])]) == 0
    want = restored(picture, 16, multiple_of=16) if size else restored(picture, 20, 6)
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert found.shape == want.shape == (82, 66, 3)
    differences = np.abs(found.astype(int) - want.astype(int))
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01


def test_results_of_another_file_are_not_taken_for_this_ones(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "a.png", 20, 20)
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--quiet", "--model"]
    assert restore.main([*words, str(files / "restorer.onnx")]) == 0
    assert restore.main([*words, str(files / "restorer.onnx")]) == 0
    assert "1 skipped" in capsys.readouterr().out
    assert restore.main([*words, str(files / "restorer16.onnx")]) == 2
    assert "were made with other weights" in capsys.readouterr().err


def test_page(files: Path) -> None:
    scores, heat, paths = demo.classify(str(files / "picture.png"), str(files / "classifier.onnx"))
    assert scores == pytest.approx(wanted(files), abs=1e-6) and heat is None and paths is None
    _, after = demo.restore(str(files / "picture.png"), str(files / "restorer.onnx"))
    want = restored(files / "picture.png", running.TILE)
    assert np.abs(after.astype(int) - want.astype(int)).max() <= 1
    with pytest.raises(demo.DemoError, match=r"classifier.onnx: a classifier; expected a restoration model"):
        demo.restore(str(files / "picture.png"), str(files / "classifier.onnx"))
    with pytest.raises(demo.DemoError, match=r"restorer.onnx: a restoration model; expected a classifier"):
        demo.classify(str(files / "picture.png"), str(files / "restorer.onnx"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test_vim", "--runtime", "onnxruntime"], "--model FILE (.onnx) that vimzoo.export wrote, got test_vim"),
        (["classifier.onnx", "--device", "cuda"], "--device cuda: "),
        (["classifier.onnx", "--checkpoint", "x.pth"], "--checkpoint x.pth: classifier.onnx is an exported file"),
        (["restorer.onnx"], "restorer.onnx: RestorationFile has no classes; expected a classifier"),
        (["broken.onnx"], "--model broken.onnx: onnxruntime cannot read it: "),
        (["foreign.onnx"], "--model foreign.onnx: has no metadata of vimzoo.export"),
        (["masks.onnx"], "--model masks.onnx: a segmentation model; expected a classifier or a restoration model"),
        (["clips.onnx"], "--model clips.onnx: reads clips of 4 frames; expected a file for images alone"),
    ],
)  # fmt: skip
def test_what_predict_refuses(
    words: list[str], message: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(files)
    Path("broken.onnx").write_bytes(b"no ONNX")
    model = onnx.load("classifier.onnx")
    for name, what in (("clips.onnx", "test_videomamba"), ("masks.onnx", "test_u_mamba")):
        facts = writing.describe(what, timm.create_model(what), None)
        onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
        onnx.save(model, name)
    del model.metadata_props[:]
    onnx.save(model, "foreign.onnx")
    assert predict.main(["picture.png", "--model", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classifier.onnx"], "classifier.onnx: a classifier; expected a restoration model"),
        (
            ["restorer.onnx", "--dtype", "bf16"],
            "--dtype bfloat16: onnxruntime computes restorer.onnx in float32",
        ),
        (["restorer.onnx", "--routing", "argmax"], "--routing argmax: restorer.onnx is an exported file"),
        (["restorer.onnx", "--device", "cuda:1"], "--device cuda:1: restorer.onnx is an exported file"),
        (["oblong.onnx"], "oblong.onnx: written for 16 x 24 pixels; expected a file for squares"),
    ],
)
def test_what_restore_refuses(
    words: list[str], message: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(files)
    if words[0] == "oblong.onnx":
        source = Source(network("restorer"), torch.rand(2, 3, 16, 24), False, FACTS["restorer"])
        exporting.FORMATS["onnx"].save(source, Path("oblong.onnx"))
    assert restore.main(["picture.png", "out.png", "--model", *words]) == 2
    assert message in capsys.readouterr().err and not Path("out.png").exists()


def test_a_missing_runtime_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"--runtime openvino: needs openvino; pip install 'vimzoo\[openvino\]'"
    ):
        running.exported(str(files / "restorer.onnx"), "openvino", torch.bfloat16)
    with pytest.raises(SystemExit):
        restore.parser().parse_args(["a", "b", "--model", "x.onnx", "--runtime", "tflite"])


def test_files_for_one_size_say_so(tmp_path: Path) -> None:
    """The size in a file's metadata is the file's, not that of the weights."""
    path = tmp_path / "model.ts"
    exporting.export("test_vmamba", "torchscript", path, random=True, size=(64, 96))
    kept = {exporting.METADATA: ""}
    torch.jit.load(str(path), _extra_files=kept)
    assert json.loads(kept[exporting.METADATA])["input_size"] == [3, 64, 96]
