"""``python -m vimzoo.eval`` and ``python -m vimzoo.predict`` on a run, from scores to named images."""

import csv
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from vimzoo import eval as eval_command
from vimzoo import predict
from vimzoo.engine import launch
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.finished import newest_run, run_settings
from vimzoo.engine.tasks.classification import calibration_error
from vimzoo.models.weights.class_names import of_model

QUICK = [
    "model=timm", "model.model_name=test_vit", "data.img_size=16", "run.epochs=2", "run.device=cpu", "run.ema=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the digits, below an outputs folder."""
    folder = tmp_path_factory.mktemp("place") / "outputs/2026-01-01/run"
    launch(composed_settings(QUICK), folder)
    return folder


@pytest.fixture
def digits(tmp_path):
    """Ten digits as files, and one that is no image."""
    source = load_digits()
    for index in range(10):
        picture = Image.fromarray((source.images[index] * 15.9).astype("uint8"))
        picture.save(tmp_path / f"{index}.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_eval_repeats_the_runs_own_scores(run, tmp_path, capsys):
    assert eval_command.main([str(run), "--json", "--out", str(tmp_path)]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["top1"] == json.loads((run / "metrics.json").read_text())["test"]["top1"]
    assert numbers["images"] == 359 and numbers["split"] == "test" and numbers["images_per_s"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "classes.csv",
        "confusion.png",
        "eval.json",
        "predictions.png",
    }
    rows = list(csv.DictReader((tmp_path / "classes.csv").open()))
    right = sum(float(row["recall"]) * int(row["images"]) for row in rows)
    assert [row["class"] for row in rows] == list("0123456789")
    assert right / 359 == pytest.approx(numbers["top1"] / 100, abs=1e-3)


def test_eval_takes_settings_and_the_newest_run(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[2])
    assert newest_run() == run.relative_to(run.parents[2])
    assert eval_command.main(["--split", "val"]) == 0
    assert "images               179" in capsys.readouterr().out and (run / "eval/eval.json").exists()
    assert eval_command.main([str(run), "run.limit_batches=1", "--json", "data.batch_size=20"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20


def test_eval_of_a_model_without_a_run(tmp_path, capsys):
    words = ["model=timm", "model.model_name=test_vit", "run.device=cpu", "--json", "--out", str(tmp_path)]
    assert eval_command.main(words) == 0
    assert json.loads(capsys.readouterr().out)["top1"] < 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: not a run folder"),
        (["model=vim_tny"], "model=vim_tny: there is no such model; similar names: vim_tiny"),
        (["RUN", "optim.lrr=1"], "optim.lrr=1: the run has no such setting; similar names: lr"),
        (["RUN", "RUN"], "one run folder at a time"),
        (["RUN", "run.amp=bf17"], "run.amp=bf17"),
        ([], "no finished run under outputs/"),
    ],
)
def test_eval_names_mistakes(words, message, run, monkeypatch, tmp_path, capsys):
    import re

    monkeypatch.chdir(tmp_path)
    assert eval_command.main([word.replace("RUN", str(run)) for word in words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_predict_names_digits(run, digits, capsys):
    """The classes are those of the run's best weights on the same pixels."""
    assert predict.main([str(digits), "--model", str(run), "--json", "--top", "3", "--batch", "4"]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 11 and "cannot identify" in answers[-1]["error"]
    model = predict.load_model(str(run)).eval()
    inputs = model.pretrained_cfg
    for answer in answers[:10]:
        image = Image.open(answer["file"]).resize((16, 16), Image.Resampling.BICUBIC)
        pixels = torch.tensor(np.asarray(image)).view(1, 1, 16, 16) / 255
        ranked = model((pixels - inputs["mean"][0]) / inputs["std"][0]).softmax(dim=1)[0]
        best = answer["classes"][0]
        assert best["class"] == str(int(ranked.argmax())) and len(answer["classes"]) == 3
        assert best["probability"] == pytest.approx(ranked.max().item(), abs=1e-4)


def test_predict_refuses_an_answer_that_is_no_number(run, digits):
    """A NaN has a largest class, too, which would be shown with a probability."""
    model = predict.load_model(str(run))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    answer = next(predict.predictions(model, [digits / "3.png"]))
    assert "NaN" in answer["error"] and "classes" not in answer


def test_predict_as_a_table(run, digits, capsys):
    assert (
        predict.main(["--top", "2", str(digits / "3.png"), "--model", str(run), str(digits / "4.png")]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(digits / "3.png"), str(digits / "4.png")]
    assert all(line.count(" %") == 2 for line in lines)


def test_predict_with_names_of_imagenet():
    names = of_model(timm.create_model("test_vit", num_classes=1000))
    assert names[1].startswith("goldfish") and len(names) == 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jpg"], "none.jpg: no such file or folder"),
        ([".", "--model", "test_vim"], "no images under ."),
        (
            [__file__, "--model", "test_vim", "--views", "2", "3"],
            "--views 2 3: expected with a model of clips",
        ),
        ([__file__, "--views", "0", "3"], "--views=0 3: expected at least 1"),
        ([__file__, "--model", "vim_tny"], "--model vim_tny: no such model or folder; similar names: vim_"),
        ([__file__, "--top", "0"], "--top=0"),
        (
            [__file__, "--model", "."],
            "--model .: no config.json that names a model; expected the folder",
        ),
        ([__file__, "--checkpoint", "a.pth"], "--checkpoint a.pth: expected with --model NAME"),
        ([__file__, "--model", "test_vim", "--device", "gpu"], "--device gpu: "),
        ([__file__, "--model", "vim_digits"], "vim_digits: no published weights of this model are known"),
    ],
)
def test_predict_names_mistakes(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert predict.main(words) == 2
    assert message in capsys.readouterr().err


def test_predict_wants_a_classifier(tmp_path):
    torch.save(timm.create_model("test_mambair").state_dict(), tmp_path / "restorer.pth")
    with pytest.raises(predict.UsageError, match="has no classes; expected a classifier"):
        predict.load_model("test_mambair", tmp_path / "restorer.pth")


def test_calibration_error_by_hand():
    """Two bins: four images at 0.9 of which two are right, one at 0.3 that is wrong."""
    confidences, hits = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.3]), torch.tensor([1, 1, 0, 0, 0]).bool()
    assert calibration_error(confidences, hits) == pytest.approx(100 * (4 * 0.4 + 1 * 0.3) / 5)
    assert calibration_error(torch.ones(3), torch.ones(3).bool()) == 0


def test_settings_of_a_run_keep_their_types(run):
    cfg = run_settings(run, ["optim.lr=0.5", "run.ema=null", "data.workers=2"])
    assert (cfg["optim"]["lr"], cfg["run"]["ema"], cfg["data"]["workers"]) == (0.5, None, 2)


def test_eval_at_several_sizes(run, tmp_path, capsys):
    """The run's own size gives the run's own score; every size has its folder."""
    assert eval_command.main([str(run), "--sizes", "16", "32", "--json", "--out", str(tmp_path)]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["16"]["top1"] == json.loads((run / "metrics.json").read_text())["test"]["top1"]
    assert numbers["32"]["top1"] != numbers["16"]["top1"]
    assert (tmp_path / "16px/eval.json").exists() and (tmp_path / "32px/eval.json").exists()
    eval_command.main([str(run), "--sizes", "16", "--out", str(tmp_path)])
    assert "top1" in (said := capsys.readouterr().out).splitlines()[0] and said.splitlines()[1].startswith(
        "  16"
    )
