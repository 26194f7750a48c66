"""Clips from the files of films: which frames and crops they hold, views, damaged files, and a run."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from trainer_helpers import composed

from vimzoo import eval as eval_command
from vimzoo import predict
from vimzoo.data import film_folder
from vimzoo.data.clips.augmentation import auto_augmented, erased
from vimzoo.data.clips.views import crops_of, drawn, random_crop, spread
from vimzoo.data.inputs import model_inputs
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.tasks.classification import build_model
from vimzoo.errors import UsageError

av = pytest.importorskip("av", reason="needs the extra vimzoo[films]")
CFG = dict(input_size=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)


def write(path: Path, frames: int, height: int = 48, width: int = 64) -> None:
    """A lossless film whose frame i is grey of 4 i, with more red in its right half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=10, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        for number in range(frames):
            picture = np.full((height, width, 3), 4 * number, dtype=np.uint8)
            picture[:, width // 2 :, 0] += 100
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                film.mux(packet)
        for packet in stream.encode():
            film.mux(packet)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for kind in ("a", "b"):
        for number in range(3):
            write(root / "train" / kind / f"{number}.mkv", 20)
        write(root / "val" / kind / "0.mkv", 20)
        write(root / "test" / kind / "0.mkv", 20 if kind == "a" else 3)
    return root


def test_frames_are_spread_as_the_authors_do() -> None:
    """seg = (N - 1) / T; clip c of C begins int(seg / (C + 1) * (c + 1)) after round(seg * i)."""
    assert spread(41, 4).tolist() == [5, 15, 25, 35]
    assert [spread(41, 4, clip, 3).tolist() for clip in range(3)] == [
        [2, 12, 22, 32], [5, 15, 25, 35], [7, 17, 27, 37],
    ]  # fmt: skip
    assert spread(1, 4).tolist() == [0, 0, 0, 0] and spread(3, 4).max() <= 2
    draws = np.random.default_rng(0)
    for _ in range(50):
        places = drawn(41, 4, draws)
        assert ((places >= [0, 10, 20, 30]) & (places <= [10, 20, 30, 40])).all()


def test_crops_lie_along_the_long_side() -> None:
    ramp = torch.arange(64.0).expand(3, 2, 32, 64)
    left, middle, right = crops_of(ramp, 32, 3)
    assert (left[0, 0, 0, 0], middle[0, 0, 0, 0], right[0, 0, 0, 0]) == (0, 16, 32)
    assert torch.equal(crops_of(ramp, 32, 1)[0], middle)
    assert torch.equal(crops_of(ramp.mT, 32, 3)[2], right.mT)
    part = random_crop(ramp, 16, (0.2, 0.5), (0.75, 1.33), np.random.default_rng(0))
    assert part.shape == (3, 2, 16, 16) and torch.equal(part[:, 0], part[:, 1])


def test_views_of_a_folder_of_films(films: Path) -> None:
    data = film_folder(films, frames=4, views=(2, 3), pretrained_cfg=CFG)
    assert data.classes == ("a", "b") and data.frames == 4 and data.input_size == (3, 32, 32)
    assert len(data.train) == 6 and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    clip, label = data.val[1]
    assert clip.shape == (3, 4, 32, 32) and label == 1
    wanted = spread(20, 4) * 4 / 255
    torch.testing.assert_close(clip[1, :, 0, 0], torch.from_numpy(wanted).float(), atol=2e-3, rtol=0)
    views, _ = data.test[0]
    assert views.shape == (6, 3, 4, 32, 32)
    second = torch.from_numpy(spread(20, 4, 1, 2) * 4 / 255).float()
    torch.testing.assert_close(views[3, 1, :, 0, 0], second, atol=2e-3, rtol=0)
    assert views[0, 0, 0, 0, 0] < views[2, 0, 0, 0, -1]  # red is in the right half alone
    short, _ = data.test[1]  # of three frames, which are repeated
    assert short.shape == (6, 3, 4, 32, 32) and short.isfinite().all()


def test_training_clips_depend_on_their_key(films: Path) -> None:
    aug = {"scale": (0.3, 1.0), "hflip": 0.5}
    first, second = (film_folder(films, frames=4, aug=aug, pretrained_cfg=CFG).train for _ in range(2))
    assert torch.equal(first[0, 1][0], second[0, 1][0])
    assert not torch.equal(first[0, 1][0], first[1, 1][0])


def test_timms_augmentation_is_the_same_for_all_frames(films: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    clip, name = np.stack([frame] * 3), "rand-m7-n4-mstd0.5-inc1"
    changed = [auto_augmented(clip, name, 32, (0.5,) * 3, np.random.default_rng(seed)) for seed in range(4)]
    assert all((frames == frames[0]).all() for frames in changed)
    assert not all((frames == clip).all() for frames in changed) and not (changed[0] == changed[1]).all()
    noisy = erased(torch.zeros(3, 4, 32, 32), 1.0, np.random.default_rng(0))
    covered = (noisy != 0).any(0)
    assert 0 < covered[0].sum() < 32 * 32 and (covered == covered[0]).all()
    assert torch.equal(erased(noisy, 0.0, np.random.default_rng(0)), noisy)
    state = random.getstate(), torch.get_rng_state()
    aug = {"auto_augment": name, "re_prob": 1.0}
    first, second = (film_folder(films, frames=4, aug=aug, pretrained_cfg=CFG).train for _ in range(2))
    assert torch.equal(first[3, 1][0], second[3, 1][0]) and not torch.equal(first[3, 1][0], first[4, 1][0])
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    with pytest.raises(UsageError, match="auto_augment=random is none of timm's"):
        film_folder(films, aug={"auto_augment": "random"}, pretrained_cfg=CFG)


def test_a_damaged_film_is_replaced_and_named(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        for number in range(3):
            write(tmp_path / kind / f"{number}.mkv", 4, 16, 16)
    (tmp_path / "a" / "1.mkv").write_bytes(b"no film")
    data = film_folder(tmp_path, frames=2, test_fraction=1, pretrained_cfg=CFG)
    assert [label for _, label in (data.test[i] for i in range(6))] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UsageError, match=r"1 of 6 images cannot be read, such as .*1\.mkv"):
        data.unreadable()


def test_predictions_of_films(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_videomamba").eval()
    torch.save(model.state_dict(), tmp_path / "clips.pth")
    (tmp_path / "bad.mkv").write_bytes(b"no film")
    data = film_folder(films, frames=4, views=(2, 3), pretrained_cfg=model.pretrained_cfg)
    with torch.inference_mode():
        expected = model(data.test[0][0]).softmax(1).mean(0)
    given = [str(films / "test" / "a"), str(tmp_path), "--model", "test_videomamba", "--top", "2", "--json"]
    given += ["--views", "2", "3", "--checkpoint", str(tmp_path / "clips.pth")]
    assert predict.main(given) == 1
    answer, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert bad["error"].startswith(f"{tmp_path / 'bad.mkv'}: ")
    shown = [row["probability"] for row in answer["classes"]]
    assert shown == pytest.approx(expected.topk(2).values.tolist(), abs=1e-6)


def test_what_predictions_of_films_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = timm.create_model("test_videomamba", pretrained_cfg_overlay={"input_size": (1, 64, 64)})
    with pytest.raises(UsageError, match="takes clips of 1 channels; films have 3"):
        model_inputs(grey)
    torch.save(timm.create_model("test_videomamba").state_dict(), tmp_path / "clips.pth")
    given = [str(tmp_path), "--model", "test_videomamba", "--checkpoint", str(tmp_path / "clips.pth")]
    assert predict.main(given) == 2
    assert f"no films under {tmp_path}" in capsys.readouterr().err


def test_what_a_folder_of_films_refuses(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="`root` is not set"):
        film_folder()
    with pytest.raises(UsageError, match="no such folder"):
        film_folder(tmp_path / "none")
    with pytest.raises(UsageError, match="`views`"):
        film_folder(tmp_path, views=(0, 3))
    with pytest.raises(UsageError, match=r"clips take scale, ratio, .*; not color_jitter"):
        film_folder(tmp_path, aug={"color_jitter": 0.3})
    with pytest.raises(UsageError, match="`frames`=0"):
        film_folder(tmp_path, frames=0)


def test_a_run_on_films_with_views(films: Path, tmp_path: Path) -> None:
    words = [
        "model=test_videomamba", "+model.img_size=32", "+model.depth=1", "data=clips", f"data.root={films}",
        "data.frames=2", "data.views=[2,2]", "data.batch_size=4", "data.workers=0", "data.img_size=32",
        "run.epochs=1", "run.ema=null", "aug.mixup.mixup_alpha=0.5",
    ]  # fmt: skip
    launch(composed(*words), tmp_path, words)
    found = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert eval_command.main([str(tmp_path), "data.views=[2,2]"]) == 0
    numbers = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert numbers["top1"] == found["top1"] and numbers["model_images_per_s"] > 0


def test_models_of_clips_and_data_of_images() -> None:
    """And the reverse: what reads what, and what to use instead."""
    for words, message in (
        (
            "model=test_videomamba",
            "reads clips, but the data .digits.* are images; expected data of clips or",
        ),
        (
            "data=moving_digits",
            "the data .moving digits.* are clips; .* videomamba_tiny_patch16_f8_224",
        ),
        ("data=moving_digits model=timm model.model_name=resnet18", "resnet18: reads images"),
    ):
        cfg = composed(*words.split())
        with pytest.raises(UsageError, match=f"model.model_name=.*{message}"):
            build_model(cfg, build_data(cfg))


def test_a_published_recipe_takes_a_step(films: Path, tmp_path: Path) -> None:
    start = timm.create_model("videomamba_tiny_patch16_224", depth=1, embed_dim=16, img_size=32)
    torch.save(start.state_dict(), tmp_path / "image.pth")
    words = [
        "experiment=videomamba_middle_ssv2", f"data.root={films}", "data.batch_size=4", "data.workers=0",
        "data.img_size=32", f"model.start={tmp_path / 'image.pth'}", "+model.depth=1", "+model.embed_dim=16",
        "+model.img_size=32", "model.drop_path_rate=0", "run.epochs=1", "sched.warmup_epochs=0",
        "run.limit_batches=1", "run.device=cpu", "run.amp=none",
    ]  # fmt: skip
    launch(composed(*words), tmp_path / "run", words)
    after = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert torch.equal(after["cls_token"], start.cls_token)  # frozen, and taken over from the image model
    assert not torch.equal(after["temporal_pos_embed"], torch.zeros_like(after["temporal_pos_embed"]))
