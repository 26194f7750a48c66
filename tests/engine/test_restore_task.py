"""The restoration task: losses against formulas, scores against the metrics, short runs of every experiment."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from trainer_helpers import composed

from vimzoo.data import bundled_photos
from vimzoo.data.pairs.degradations import to_image
from vimzoo.engine import TASKS, launch
from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.configuration.composing import config_dir
from vimzoo.engine.configuration.older import updated
from vimzoo.engine.reports import report
from vimzoo.engine.tasks.restoration import (
    TASK,
    CharbonnierLoss,
    PairMixup,
    PapersTiles,
    build_loss,
    build_model,
    details,
    measured,
    set_names,
)
from vimzoo.errors import UsageError
from vimzoo.eval import evaluation
from vimzoo.eval import main as eval_main
from vimzoo.metrics import psnr, ssim
from vimzoo.restoration import Restorer

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
PHOTOS = [name for name in EXPERIMENTS if name.startswith("photos_")]
RECIPES = [name for name in EXPERIMENTS if name.startswith("mambair")]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five coloured images of 64 x 72 pixels and, to make pairs with them, five others."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.RandomState(0)
    for index in range(10):
        kind = folder / ("low", "high")[index % 2]
        kind.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.randint(0, 256, (8, 9, 3), dtype=np.uint8))
        coarse.resize((72, 64), Image.Resampling.BICUBIC).save(kind / f"{index // 2}.png")
    return folder


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the shortest runs."""
    monkeypatch.setattr(report, "curves", lambda *_: None)
    monkeypatch.setitem(TASKS, "restore", replace(TASKS["restore"], pictures=lambda *_: None))


def short(*overrides: str) -> dict:
    """The configuration of three steps on few crops."""
    few = ("data.crops=12", "data.batch_size=4", "data.workers=0", "run.epochs=1", "run.limit_batches=3")
    return composed(*overrides, *few, "run.device=cpu")


def test_charbonnier_by_hand() -> None:
    output, target = torch.tensor([0.0, 3.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    assert CharbonnierLoss(eps=1e-4)(output, target).item() == pytest.approx(
        (1e-2 + 9.0001**0.5 + 4.0001**0.5) / 3
    )
    gradient = torch.autograd.functional.jacobian(lambda x: CharbonnierLoss(1e-12)(x, target), output)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 1.0, -1.0]) / 3)


def test_losses_take_arguments() -> None:
    """As published, eps 1e-3 is added to the square: a difference of 0.01 has a third of l1's gradient."""
    data = bundled_photos(sigma=25, crop=40)
    difference = torch.tensor([0.01], requires_grad=True)

    def slope(loss: object) -> float:
        criterion = build_loss({"loss": loss, "aug": {"mixup": {}}}, data)[1]
        return torch.autograd.grad(criterion(difference, torch.zeros(1)), difference)[0].item()

    assert (
        slope("charbonnier") == slope({"name": "charbonnier", "eps": 1e-3}) == pytest.approx(0.3015, abs=1e-4)
    )
    assert slope({"name": "charbonnier", "eps": 1e-12}) == pytest.approx(1, abs=1e-6) == slope("l1")
    for wrong in (
        {"name": "charbonnier", "beta": 1},
        {"name": "charbonnier", "eps": 0},
        {"eps": 1},
        {"name": "l1", "eps": 1},
    ):
        with pytest.raises(UsageError, match="loss="):
            slope(wrong)


DENOISING = [name for name in RECIPES if "_dn_" in name or "_car_" in name]


@pytest.mark.parametrize("name", DENOISING)
def test_published_losses(name: str) -> None:
    """All twelve of the authors' files for denoising and JPEG have this eps; here is one for two qualities each."""
    assert composed(f"experiment={name}")["loss"] == {"name": "charbonnier", "eps": 1e-3}
    assert composed(f"experiment={name}", "loss=l1")["loss"] == "l1"


def test_an_older_runs_loss_stays_what_it_was() -> None:
    old = {"loss": "charbonnier", "data": {"source": "photos", "sigma": 25}, "aug": {"transform": None}}
    assert updated(old)["loss"] == {"name": "charbonnier", "eps": 1e-12}
    new = composed("experiment=photos_denoise", "loss=charbonnier")
    assert updated(new)["loss"] == "charbonnier"


def test_milestones_beyond_the_end_are_said(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=mambair_light_x2", f"data.root={photographs}", "data.crop=32", "+model.embed_dim=30"]
    for epochs, said in (
        (500, ""),
        (450, "2 of 4 are not before the end"),
        (100, "4 of 4 are not before the end"),
    ):
        cfg = composed(*words, "+model.depths=[1]", f"run.epochs={epochs}")
        build_state(cfg, build_data(cfg), steps_per_epoch=10)
        err = capsys.readouterr().err
        assert said in err and ("decay_milestones" in err) == bool(said)


def test_mixup_mixes_images_and_targets_alike() -> None:
    np.random.seed(0)
    images = torch.rand(6, 3, 4, 4)
    mixed, targets = PairMixup(alpha=1.2)(images, 2 * images)
    torch.testing.assert_close(targets, 2 * mixed)
    assert not torch.equal(mixed, images)
    torch.testing.assert_close(mixed.mean(0), images.mean(0))  # every image gives as much as it takes
    assert PairMixup(alpha=1.2, prob=0.0)(images, images)[0] is images


def test_scores_are_means_over_images_by_the_papers_rule() -> None:
    data = bundled_photos(scale=2, crop=96)
    sums, rng = TASK.scores(data), torch.Generator().manual_seed(0)
    originals = torch.rand(3, 3, 24, 24, generator=rng)
    restored = (originals + 0.1 * torch.rand(3, 3, 24, 24, generator=rng)).bfloat16()
    sums.add(restored[:2], originals[:2])
    sums.add(restored[2:], originals[2:])
    pairs = list(zip(restored.float(), originals, strict=True))
    assert sums.summary()["psnr"] == pytest.approx(np.mean([psnr(a, b, crop=2, y=True) for a, b in pairs]))
    assert sums.summary()["ssim"] == pytest.approx(np.mean([ssim(a, b, crop=2, y=True) for a, b in pairs]))
    assert sums.summary()["loss"] == pytest.approx((restored.float() - originals).abs().mean().item())
    assert all(len(values) == 3 for values in sums.sums().values())  # one of each image, whatever the scale
    assert measured(*pairs[0], scale=1) == (psnr(*pairs[0]), ssim(*pairs[0]))


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_train_and_are_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(short(f"experiment={name}", "data.eval_crop=32", "model.depths=[1]"), tmp_path)
    assert {"best.pt", "metrics.json", "restored.png"} <= {path.name for path in tmp_path.iterdir()}
    test = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert set(test) == {"loss", "psnr", "ssim"} and 0 < test["psnr"] < 60 and test["ssim"] <= 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"test PSNR {test['psnr']:.2f} dB"
    assert "13 training" not in lines[1] and "2 validation, 3 test" in lines[1] and "classes" not in lines[1]


SMALL = {  # of the same kind, a few layers wide and deep
    "mambair_realdn_unet": ["+model.embed_dim=32", "+model.depths=[1,1,1,1]", "+model.refinement_depth=1"],
    "mambairv2": ["+model.embed_dim=16", "+model.depths=[1,1]", "+model.num_heads=2", "+model.window=8"],
    "mambair": ["+model.embed_dim=30", "+model.depths=[1,1]"],
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("no_pictures")
def test_published_recipes_run(name: str, photographs: Path, tmp_path: Path) -> None:
    words = [f"experiment={name}", f"data.root={photographs}"]
    model = composed(*words)["model"]["model_name"]
    kind = next(prefix for prefix in SMALL if model.startswith(prefix))
    cfg = short(*words, *SMALL[kind], "data.crop=24", "data.eval_crop=24", "data.stages=null")
    cfg["sched"] = {**cfg["sched"], "num_epochs": 1, "warmup_epochs": 0}
    launch(cfg, tmp_path)
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 3


@pytest.mark.usefixtures("no_pictures")
def test_the_recipe_for_real_photographs_goes_through_its_stages(tmp_path: Path) -> None:
    """With crops of a quarter of the side, an eighth of the images and one update in each stage."""
    for kind in ("low", "high"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        for index in range(4):
            noise = Image.effect_noise((104, 96), 60).convert("RGB")
            noise.save(tmp_path / "pairs" / kind / f"{index}.png")
    words = ["experiment=mambair_realdn", f"data.root={tmp_path / 'pairs'}", *SMALL["mambair_realdn_unet"]]
    cfg = composed(
        *words, "+model.d_state=1", "data.crops=8", "data.batch_size=8", "data.eval_crop=16", "run.device=cpu"
    )
    cfg["data"]["workers"], cfg["run"]["epochs"] = 0, 6
    cfg["sched"] |= {"num_epochs": 6, "warmup_epochs": 0}
    for stage in cfg["data"]["stages"]:
        stage.update(epochs=1, crop=stage["crop"] // 4, batch_size=stage["batch_size"] // 8)
    launch(cfg, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/sizes.csv").open()))
    seen = {(int(row["height"]), int(row["images"]), int(row["batches"])) for row in rows}
    assert seen == {(32, 8, 1), (40, 5, 1), (48, 4, 1), (64, 2, 1), (80, 1, 1), (96, 1, 1)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=cross_entropy"], "loss=cross_entropy: task=restore takes l1 or charbonnier"),
        (
            ["+aug.mixup.cutmix_alpha=1"],
            r"aug.mixup.cutmix_alpha=1: task=restore takes mixup_alpha and prob only",
        ),
    ],
)
def test_unusable_losses(overrides: list[str], message: str) -> None:
    cfg = composed("experiment=photos_denoise", *overrides)
    with pytest.raises(UsageError, match=message):
        build_loss(cfg, build_data(cfg))


def test_a_recipe_starts_from_another_models_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["experiment=photos_sr_x2", "model=restoration", "model.model_name=test_mambair"]
    cfg = composed(*small)
    double = build_model(cfg, build_data(cfg))
    torch.save({"params": double.state_dict()}, tmp_path / "x2.pth")
    cfg = composed(
        *small, "+model.scale=3", "data.scale=3", "data.crop=81", f"model.start={tmp_path / 'x2.pth'}"
    )
    triple = build_model(cfg, build_data(cfg))
    same = {
        name for name, tensor in triple.state_dict().items() if torch.equal(tensor, double.state_dict()[name])
    }
    assert set(triple.state_dict()) - same == {"head.ups.0.weight", "head.ups.0.bias"}
    assert (
        "; 2 tensors of the model begin anew: head.ups.0.weight, head.ups.0.bias; 2"
        in capsys.readouterr().out
    )
    cfg = composed(*small, "+model.embed_dim=36", f"model.start={tmp_path / 'x2.pth'}")
    with pytest.raises(UsageError, match=r"model.start: .*x2.pth: only \d+ of \d+ tensors fit"):
        build_model(cfg, build_data(cfg))
    cfg = composed(*small, "model.start=nowhere.pth")
    with pytest.raises(UsageError, match=r"model.start: .*nowhere.pth"):
        build_model(cfg, build_data(cfg))


def test_models_that_do_not_fit() -> None:
    cfg = composed("experiment=photos_denoise", "model.scale=2", "model.upsampler=pixelshuffledirect")
    with pytest.raises(UsageError, match=r"mambair_mini_dn enlarges by 2, the data \(photographs.*\) by 1"):
        build_model(cfg, build_data(cfg))
    for words in (["model=timm", "model.model_name=test_resnet"], ["model=test_spectral_fusion_mamba"]):
        cfg = composed("experiment=photos_denoise", *words)
        with pytest.raises(UsageError, match=r"=test_.*: task=restore needs a model from image to image"):
            build_model(cfg, build_data(cfg))


def test_published_hyperparameters(photographs: Path) -> None:
    """Read off the state that training would start with: optimizer, milestones in steps, loss."""
    cfg = composed("experiment=mambair_light_x2", f"data.root={photographs}", "data.crop=32")
    state = build_state(cfg, build_data(cfg), steps_per_epoch=1000)
    group = state.optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (2e-4, (0.9, 0.99), 0.0)
    assert state.epochs == 500 and isinstance(state.criterion, torch.nn.L1Loss) and state.ema is None
    rates = []
    for step in (249_998, 250_000, 400_000, 450_000, 475_000, 499_999):
        state.scheduler.step_update(step)
        rates.append(group["lr"])
    assert rates == pytest.approx([2e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5, 1.25e-5])


@pytest.fixture
def benchmark_sets(tmp_path: Path) -> Path:
    """Pairs at scale 2 in two data sets; one image is above 199 pixels wide."""
    for name, width in (("Set5/a", 24), ("Set5/b", 210), ("Set14/c", 32)):
        pixels = np.random.RandomState(width).randint(0, 256, (10, width // 4, 3), dtype=np.uint8)
        for kind, scale in (("low", 1), ("high", 2)):
            path = tmp_path / "sets" / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((width * scale, 24 * scale), Image.Resampling.BICUBIC).save(path)
    return tmp_path / "sets"


def test_evaluation_prints_the_papers_table(benchmark_sets: Path, tmp_path: Path) -> None:
    """By the command's own function; the same by hand, image by image, in the papers' tiles."""
    torch.manual_seed(0)
    model = timm.create_model("test_mambair").eval()
    file = tmp_path / "test.pth"
    torch.save({"params": model.state_dict()}, file)
    words = [
        "task=restore", "model=restoration", "model.model_name=test_mambair", f"model.start={file}", "data=paired",
        f"data.root={benchmark_sets}", "data.test_fraction=1", "data.eval_crop=null", "data.workers=0",
    ]  # fmt: skip
    numbers = evaluation([*words, "run.device=cpu"], out=tmp_path / "eval")
    found, restore = {}, Restorer(model, tile="official")
    for high in sorted(benchmark_sets.glob("high/*/*.png")):
        low = np.asarray(Image.open(benchmark_sets / "low" / high.parent.name / high.name))
        restored = to_image(restore(low))
        found.setdefault(high.parent.name, []).append(
            measured(restored, to_image(np.asarray(Image.open(high))), 2)
        )
    cells = [
        f"{psnr:.2f} / {ssim:.4f}"
        for psnr, ssim in (np.mean(found[name], axis=0) for name in ("Set14", "Set5"))
    ]
    assert numbers["table"].splitlines()[1:] == [
        "| Set14 | Set5 |",
        "| --- | --- |",
        f"| {' | '.join(cells)} |",
    ]
    assert numbers["psnr"] == pytest.approx(
        np.mean([psnr for rows in found.values() for psnr, _ in rows]), abs=1e-3
    )
    rows = (tmp_path / "eval" / "images.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["Set14", "c"], ["Set5", "a"], ["Set5", "b"]]
    low = np.asarray(Image.open(benchmark_sets / "low" / "Set5" / "b.png"))
    with torch.inference_mode():
        whole = model(to_image(low)[None])[0]
    assert not torch.equal(whole, PapersTiles(model)(to_image(low)[None])[0])  # tiles do matter


@pytest.mark.parametrize(
    ("folders", "names"),
    (
        (("r/high/Set5",), ("Set5",)),
        (("r/high/Set5", "r/high/Set14"), ("Set5", "Set14")),
        (("r/high/Set5/HR", "r/high/Set14/HR"), ("Set5", "Set14")),
        (("r/a/x/HR", "r/b/x/HR", "r/b/y/HR"), ("a/x", "b/x", "b/y")),
        (("r/high", "r/high/more"), ("high", "more")),
        (("HR", "a/HR"), ("", "a")),
    ),
)
def test_data_sets_have_names_of_their_own(folders: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert tuple(set_names([Path(folder) for folder in folders]).values()) == names


def test_the_table_has_a_column_for_each_folder(tmp_path: Path) -> None:
    files = [tmp_path / "high" / name for name in ("Set14/HR/a.png", "Set5/HR/b.png")]
    data = SimpleNamespace(test=SimpleNamespace(pairs=SimpleNamespace(high=files)))
    sums = SimpleNamespace(psnr=[20.0, 40.0], ssim=[0.5, 0.9])
    assert details(sums, data, tmp_path)["table"].splitlines()[1:] == [
        "| Set14 | Set5 |",
        "| --- | --- |",
        "| 20.00 / 0.5000 | 40.00 / 0.9000 |",
    ]
    rows = (tmp_path / "images.csv").read_text().splitlines()
    assert rows[1:] == ["Set14,a,20.0000,0.500000", "Set5,b,40.0000,0.900000"]


SMALL_X2 = dict(embed_dim=32, depths=[1], d_state=1, ratio=1.2, cab="conv", upsampler="pixelshuffle")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Files of an x2 network, of one that is deeper and of one that enlarges by four."""
    for name, change in (("x2", {}), ("deeper", {"depths": [2]}), ("x4", {"scale": 4})):
        model = timm.create_model("test_mambair", **{"scale": 2, **SMALL_X2, **change})
        torch.save({"params": model.state_dict()}, tmp_path / f"{name}.pth")
    return tmp_path


def judged(root: Path, *words: str) -> list[str]:
    """Words of an evaluation on all pairs of a folder."""
    options = [f"+model.{name}={value}".replace(" ", "") for name, value in {"scale": 2, **SMALL_X2}.items()]
    return [
        "task=restore", "data=paired", f"data.root={root}", "data.test_fraction=1", "data.eval_crop=null",
        "data.workers=0", "model=restoration", "model.model_name=test_mambair", *options, *words,
    ]  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
def test_evaluation_takes_whole_files_alone(
    benchmark_sets: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network of another scale or depth scores nothing here; training may begin from it and says what is left out."""
    monkeypatch.chdir(weights)
    assert eval_main([*judged(benchmark_sets, "model.start=x2.pth"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3
    for name, expected in (("x4", "x4.pth"), ("deeper", "deeper.pth")):
        assert eval_main(judged(benchmark_sets, f"model.start={name}.pth")) == 2
        captured = capsys.readouterr()
        assert (
            "error: model.start: " in captured.err and expected in captured.err and "psnr" not in captured.out
        )
    assert eval_main([*judged(benchmark_sets), "--json"]) == 0
    captured = capsys.readouterr()
    assert "has random weights" in captured.err and json.loads(captured.out)["split"] == "test"


def test_training_says_what_it_does_not_take(
    benchmark_sets: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (
        ("x2", ""),
        ("x4", " of the file are left out: "),
        ("deeper", " of the file are left out: "),
    ):
        cfg = composed(*judged(benchmark_sets, f"model.start={weights / name}.pth"))
        build_model(cfg, build_data(cfg))
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith("start  from ") and (said in line) and ("tensors" in line) == bool(said)
