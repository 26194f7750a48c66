"""MambaIRv2's routes: every way of opening and running it takes ``routing``, and weights record what they are for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vimzoo
from vimzoo.compat import mambair
from vimzoo.convert import convert
from vimzoo.data.pairs.degradations import to_image
from vimzoo.engine import TASKS, launch
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.reports import report
from vimzoo.engine.tasks.restoration import measured
from vimzoo.eval import main as eval_main
from vimzoo.export import main as export_main
from vimzoo.exporting.opening import build
from vimzoo.models.opening import open_model
from vimzoo.restoration import Restorer
from vimzoo.restore import main as restore_main

NAME = "mambairv2_dn"
SMALL: dict[str, Any] = dict(
    embed_dim=16, depths=[1], num_heads=2, window=8, d_state=2, ratio=1.5, rank=4, num_tokens=6
)
WORDS = [
    "task=restore", "data.workers=0", "run.device=cpu", "model=restoration", f"model.model_name={NAME}",
    *(f"+model.{name}={value}" for name, value in SMALL.items()),
]  # fmt: skip


def network(routing: str) -> Any:
    """A network whose output shows which routes were taken."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, routing=routing, **SMALL).eval()
    with torch.no_grad():
        model.groups[0].conv.weight.mul_(20)
    return model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of both kinds of network, ours and the authors', a folder of timm's, and pictures."""
    for routing in ("gumbel", "argmax"):
        model = network(routing)
        torch.save(model.state_dict(), tmp_path / f"{routing}.pth")
        timm.models.save_for_hf(
            model,
            str(tmp_path / routing),
            {"model_args": SMALL | {"routing": routing}},
            safe_serialization=True,
        )
    torch.save({"params": mambair.official_state_dict(model)}, tmp_path / "authors.pth")
    torch.save(timm.create_model("test_mambair").state_dict(), tmp_path / "v1.pth")
    generator = np.random.default_rng(0)
    for name in ("photo.png", *(f"{kind}/{i}.png" for kind in ("pairs/low", "pairs/high") for i in range(3))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("routing", ("gumbel", "argmax"))
def test_a_file_records_what_it_is_for(routing: str, place: Path) -> None:
    other = {"gumbel": "argmax", "argmax": "gumbel"}[routing]
    for file in (f"{routing}.pth", f"{routing}/model.safetensors"):
        assert vimzoo.load_restoration(file).routing == routing
        assert vimzoo.load_restoration(file, routing=other).routing == other
        assert open_model(NAME, file, **SMALL).routing == routing
    assert open_model(routing).routing == routing
    assert vimzoo.restoration_from_tensors(torch.load(f"{routing}.pth")).routing == routing
    folder = convert(f"{routing}.pth", NAME, place / "converted")
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).routing == routing


def test_the_authors_files_are_for_random_routes(place: Path) -> None:
    assert vimzoo.load_restoration("authors.pth").routing == "gumbel"
    with pytest.raises(ValueError, match="routing: expected one of 'gumbel', 'argmax', got 'best'"):
        vimzoo.load_restoration("authors.pth", routing="best")


def test_a_record_that_means_nothing_is_an_error(place: Path) -> None:
    state = torch.load("argmax.pth")
    state._metadata[""]["routing"] = "best"
    torch.save(state, "odd.pth")
    with pytest.raises(vimzoo.CheckpointError, match=r"odd\.pth.*routing: expected.*'best'"):
        vimzoo.load_restoration("odd.pth")
    with pytest.raises(vimzoo.CheckpointError, match=r"odd\.pth: routing: expected.*'best'"):
        open_model(NAME, "odd.pth", **SMALL)


def test_spandrel_takes_the_record(place: Path) -> None:
    spandrel = pytest.importorskip("spandrel", reason="needs the extra vimzoo[spandrel]")
    import vimzoo.spandrel

    registry = spandrel.ArchRegistry()
    for asked, file, tag in ((None, "argmax.pth", "argmax"), ("argmax", "authors.pth", "argmax")):
        vimzoo.spandrel.install(registry, routing=asked)
        assert spandrel.ModelLoader(registry=registry).load_from_file(file).tags[-1] == tag


def test_restoring(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.asarray(Image.open("photo.png"))

    def restored(*words: str) -> np.ndarray:
        given = ["photo.png", "out.png", "--existing", "overwrite", "--quiet", "--device", "cpu", *words]
        assert restore_main(given) == 0
        return np.asarray(Image.open("out.png"))

    certain = restored("--checkpoint", "authors.pth", "--routing", "argmax")
    assert np.array_equal(certain, Restorer(network("argmax"))(pixels))
    assert np.array_equal(certain, Restorer(network("gumbel"), routing="argmax", seed=3)(pixels))
    assert np.array_equal(certain, restored("--checkpoint", "argmax.pth", "--seed", "1"))
    drawn = restored("--checkpoint", "authors.pth")
    assert np.array_equal(drawn, restored("--checkpoint", "argmax.pth", "--routing", "gumbel"))
    assert not np.array_equal(drawn, certain)
    words = ["photo.png", "out.png", "--existing", "overwrite", "--routing", "argmax"]
    assert restore_main([*words, "--checkpoint", "v1.pth"]) == 2
    assert "routing argmax: MambaIR has no routes; expected a MambaIRv2" in capsys.readouterr().err


def test_results_by_other_routes_are_not_taken_for_these(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pairs/low", "out", "--quiet", "--checkpoint", "authors.pth"]
    assert restore_main(words) == 0 and restore_main([*words, "--routing", "gumbel"]) == 0
    assert restore_main([*words, "--routing", "argmax"]) == 2
    assert "made with other routing" in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing and timing take longer than the shortest runs."""
    monkeypatch.setattr(report, "curves", lambda *_: None)
    monkeypatch.setitem(TASKS, "restore", replace(TASKS["restore"], pictures=lambda *_: None))
    monkeypatch.setattr("vimzoo.eval.throughput", lambda *_: 0.0)


@pytest.mark.usefixtures("quick")
def test_evaluating(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def psnr(*words: str) -> float:
        data = ["data=paired", f"data.root={place / 'pairs'}", "data.test_fraction=1", "data.eval_crop=null"]
        assert eval_main([*WORDS, *data, *words, "--json", "--out", "eval"]) == 0
        return json.loads(capsys.readouterr().out)["psnr"]

    def by_hand(routing: str) -> float:
        found, restore = [], Restorer(network(routing), tile="official")
        for low in sorted(Path("pairs/low").iterdir()):
            pixels, high = (
                to_image(np.asarray(Image.open(f"pairs/{kind}/{low.name}"))) for kind in ("low", "high")
            )
            restored = torch.from_numpy(restore(pixels.permute(1, 2, 0).numpy())).permute(2, 0, 1)
            found.append(measured(restored, high, 1)[0])
        return float(np.mean(found))

    drawn, certain = psnr("model.start=authors.pth"), psnr("model.start=authors.pth", "--routing", "argmax")
    assert drawn == pytest.approx(by_hand("gumbel"), rel=1e-7)
    assert certain == pytest.approx(by_hand("argmax"), rel=1e-7) == psnr("model.start=argmax.pth")
    assert abs(certain - drawn) > 1e-6 * certain


def test_exporting(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def opened(name: str, routing: str | None = None, random: bool = False) -> str:
        model: Any = build(name, None, random, (16, 16), routing)
        assert model.routing == "argmax"
        return capsys.readouterr().err

    assert "gumbel: written with routing='argmax'; its weights are for 'gumbel'" in opened("gumbel")
    assert opened("gumbel", "argmax") == "" == opened("argmax")
    for words, says in (
        (
            ["argmax", "--routing", "gumbel"],
            "--routing gumbel: a file cannot draw at random; expected argmax",
        ),
        (["test_mambair", "--random", "--routing", "argmax"], "--routing argmax: MambaIR has no routes"),
    ):
        assert export_main([*words, "--format", "pt2"]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with the likeliest routes says so wherever its weights go, and is evaluated so."""
    data = [
        "data=paired",
        f"data.root={place / 'pairs'}",
        "data.crop=16",
        "data.crops=4",
        "data.batch_size=2",
    ]
    words = [*WORDS, *data, "+model.routing=argmax", "optim=restoration", "loss=l1", "run.epochs=1"]
    launch(composed_settings(words), place / "run")
    for file in ("best.pt", "last.pt", "model/model.safetensors"):
        assert vimzoo.load_restoration(place / "run" / file).routing == "argmax"
    capsys.readouterr()
    assert eval_main(["run", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert eval_main(["run", "--routing", "argmax", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["psnr"] == numbers["psnr"]
    with pytest.raises(ValueError, match="routing: expected one of 'gumbel', 'argmax', got 'best'"):
        timm.create_model(NAME, routing="best", **SMALL)
