"""Classes are matched by name: evaluation on other folders, resuming, fine-tuning, prediction."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import composed, make_images

from vimzoo import eval as eval_command
from vimzoo import predict
from vimzoo.data import image_folder
from vimzoo.engine import classes, launch
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

WORDS = [
    "model=timm", "model.model_name=test_resnet", "data=folder", "data.img_size=16", "data.batch_size=8",
    "data.workers=0", "run.device=cpu", "run.ema=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same ten pictures of each animal, in folders with some of the animals each."""
    root = tmp_path_factory.mktemp("animals")
    make_images(root / "abc", {"apple": 10, "bird": 10, "cat": 10})
    for place, animals in {"bc": ("bird", "cat"), "c": ("cat",), "bcd": ("bird", "cat", "dog")}.items():
        (root / place).mkdir()
        for animal in animals:
            (root / place / animal).symlink_to(root / "abc" / animal.replace("dog", "cat"))
    return root


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(classification, "prediction_sheet", lambda *_: None)
    patch.setattr(report, "curves", lambda *_: None)
    out = tmp_path_factory.mktemp("runs") / "run"
    launch(composed(*WORDS, f"data.root={folders / 'abc'}", "run.epochs=3", "optim.lr=3e-3"), out)
    patch.undo()
    return out


def recalls(run, root, out):
    """Recall of every class that has pictures in a folder."""
    eval_command.evaluation([str(run), f"data.root={root}", "data.test_fraction=1"], out=out)
    rows = csv.DictReader((out / "classes.csv").open())
    return {row["class"]: row["recall"] for row in rows if row["images"] != "0"}


def test_a_part_of_the_classes_is_evaluated_by_name(run: Any, folders: Any, tmp_path: Path) -> None:
    everything = recalls(run, folders / "abc", tmp_path / "abc")
    assert set(everything) == {"apple", "bird", "cat"} and len(set(everything.values())) > 1
    assert recalls(run, folders / "bc", tmp_path / "bc") == {k: everything[k] for k in ("bird", "cat")}
    assert recalls(run, folders / "c", tmp_path / "c") == {"cat": everything["cat"]}


def test_an_unknown_class_is_refused_with_both_lists(run: Any, folders: Any) -> None:
    with pytest.raises(
        UsageError, match=r"3 classes \(apple, bird, cat\), .* 3 classes \(bird, cat, dog\).*dog is not in"
    ):
        eval_command.evaluation([str(run), f"data.root={folders / 'bcd'}", "data.test_fraction=1"])


def test_a_run_does_not_go_on_with_other_classes(run: Any, folders: Any, tmp_path: Path) -> None:
    make_images(tmp_path / "abz", {"zebra": 10, "bird": 10, "cat": 10})
    with pytest.raises(
        UsageError, match=r"trained on .*\(apple, bird, cat\), the data have .*\(bird, cat, zebra\)"
    ):
        launch(
            composed(*WORDS, f"data.root={tmp_path / 'abz'}", f"resume={run}", "run.epochs=4"),
            tmp_path / "out",
        )


def without_record(run, out):
    """A run folder as written before names were recorded in checkpoints."""
    out.mkdir()
    (out / "config.yaml").write_text((run / "config.yaml").read_text())
    for name in ("best.pt", "last.pt"):
        content = torch.load(run / name, weights_only=True)
        assert content.pop("data")["classes"] == ["apple", "bird", "cat"]
        torch.save(content, out / name)
    return out


def test_an_old_run_is_matched_by_what_it_left_or_says_that_it_cannot_be(
    run: Any, folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = without_record(run, tmp_path / "old")
    words = [str(old), f"data.root={folders / 'abc'}", "data.test_fraction=1"]
    by_number = eval_command.evaluation(words)["top1"]
    assert "no record of its class names; its class numbers are taken to be those" in capsys.readouterr().err
    (old / "model").symlink_to(run / "model")
    assert eval_command.evaluation(words)["top1"] == by_number
    assert "warning" not in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"dog is not in it"):
        eval_command.evaluation([str(old), f"data.root={folders / 'bcd'}", "data.test_fraction=1"])
    launch(composed(*WORDS, f"data.root={folders / 'abc'}", f"resume={old}", "run.epochs=4"), tmp_path / "on")
    assert "before runs recorded class names" in capsys.readouterr().err


def test_a_classifier_keeps_the_classes_that_stay(
    run: Any, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = torch.load(run / "best.pt", weights_only=True)["model"]
    cfg = composed(*WORDS, f"+model.start={run / 'best.pt'}")
    model = classification.build_model(cfg, image_folder(str(folders / "bcd"), img_size=16))
    head = model.get_classifier()
    assert torch.equal(head.weight[:2], trained["fc.weight"][1:]) and len(head.weight) == 3
    assert torch.equal(head.bias[:2], trained["fc.bias"][1:])
    assert not torch.equal(head.weight[2], trained["fc.weight"][2])
    assert torch.equal(model.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])
    assert "taken over for 2 of 3 classes" in capsys.readouterr().err


def test_equal_counts_of_other_classes_share_no_classifier(run: Any, tmp_path: Path) -> None:
    make_images(tmp_path, {"oak": 4, "pine": 4, "elm": 4})
    trained = torch.load(run / "best.pt", weights_only=True)["model"]["fc.weight"]
    for start in (f"+model.start={run / 'best.pt'}", f"model.model_name=local-dir:{run / 'model'}"):
        cfg = composed(*WORDS, start, "model.pretrained=true")
        head = classification.build_model(cfg, image_folder(str(tmp_path), img_size=16)).get_classifier()
        assert head.weight.shape == trained.shape and not torch.equal(head.weight, trained)


def test_weights_without_a_run_are_evaluated_by_name_too(run: Any, folders: Any, tmp_path: Path) -> None:
    own = recalls(run, folders / "bc", tmp_path / "own")["bird"]
    for weights in (
        ["model.model_name=test_resnet", f"+model.start={run / 'best.pt'}"],
        [f"model.model_name=local-dir:{run / 'model'}", "model.pretrained=true"],
    ):
        words = [*WORDS, *weights, f"data.root={folders / 'bc'}", "data.test_fraction=1"]
        eval_command.evaluation(words, out=tmp_path / "out")
        rows = {row["class"]: row["recall"] for row in csv.DictReader((tmp_path / "out/classes.csv").open())}
        assert rows["bird"] == own


def test_a_classifier_that_was_left_out_is_refused_in_evaluation(
    run: Any, folders: Any, tmp_path: Path
) -> None:
    torch.save(torch.load(run / "best.pt", weights_only=True)["model"], tmp_path / "bare.pt")
    words = [*WORDS, f"+model.start={tmp_path / 'bare.pt'}", "data.test_fraction=1"]
    with pytest.raises(UsageError, match=r"size mismatch for fc.weight"):
        eval_command.evaluation([*words, f"data.root={folders / 'bc'}"], out=tmp_path / "out")
    assert (
        eval_command.evaluation([*words, f"data.root={folders / 'abc'}"], out=tmp_path / "out")["images"]
        == 30
    )


def test_published_weights_know_the_names_of_imagenet(tmp_path: Path) -> None:
    options = {"model_name": "vim_tiny_patch16_224", "pretrained": True}
    data = image_folder(str(make_images(tmp_path / "ids", {"n01443537": 4, "n02123045": 4})), img_size=16)
    numbered = classes.published_data(data, options)
    assert {numbered.val[i][1] for i in range(len(data.val))} == {1, 281} and len(numbered.classes) == 1000
    data = image_folder(str(make_images(tmp_path / "numbers", {"1": 4, "281": 4})), img_size=16)
    numbered = classes.published_data(data, options)
    assert {numbered.val[i][1] for i in range(len(data.val))} == {1, 281}
    data = image_folder(str(make_images(tmp_path / "names", {"goldfish": 4, "tabby": 4})), img_size=16)
    with pytest.raises(UsageError, match=r"1000 classes \(n01440764.* 2 classes \(goldfish, tabby\)"):
        classes.published_data(data, options)


def test_predict_takes_the_names_of_a_checkpoint(
    run: Any, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(folders / "abc/cat/0.jpg")
    assert predict.main([picture, "--model", str(run), "--json"]) == 0
    assert (
        predict.main([picture, "--model", "test_resnet", "--checkpoint", str(run / "best.pt"), "--json"]) == 0
    )
    by_run, by_file = (json.loads(line)["classes"] for line in capsys.readouterr().out.splitlines())
    assert {c["class"] for c in by_run} == {"apple", "bird", "cat"} == {c["class"] for c in by_file}
