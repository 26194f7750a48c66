"""What the trainer costs beyond its steps, and how fast images are read: benchmarks/results/MACHINE/trainer.json.

``python benchmarks/trainer.py``: the loop with its progress, checks, sums and checkpoint clock against a bare loop
over the same batches, forward and backward passes and updates, interleaved; and images per second of reading, decoding
and augmenting JPEG files as `data=folder` does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import measure, write
from PIL import Image
from torch import nn

from vimzoo.data import image_folder, train_loader
from vimzoo.engine.build import build_data, build_state
from vimzoo.engine.checkpoints.saver import Saver
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.loop import train_epoch
from vimzoo.engine.state import State, no_sums

STEPS = 10


class Fixed:
    """The same batches again and again, so that only the loop differs; stands in for the loader."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.batch_sampler = batches, type("Sampler", (), {"epoch": 0, "start": 0})()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


def bare(state: State, batches: list[Any]) -> None:
    """What nobody can leave out: forward, backward, clipping, update, average, learning rate."""
    state.model.train()
    for images, targets in batches:
        loss = state.criterion(state.model(images).float(), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), state.clip_grad or torch.inf)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.update(state.model, step=state.step)
        state.step += 1
        state.scheduler.step_update(state.step)


def whole(state: State, loader: Fixed, out: Path) -> None:
    """One epoch of the trainer."""
    state.batch, state.sums = 0, no_sums()
    with contextlib.redirect_stderr(io.StringIO()):
        train_epoch(state, loader, Saver(out, minutes=10))  # type: ignore[arg-type]


def overhead(words: list[str], rounds: int) -> dict[str, Any]:
    """Milliseconds of a step in the bare loop and in the trainer's, and the share that the trainer adds."""
    cfg = composed_settings([*words, "run.device=cpu"])
    data = build_data(cfg)
    loader = train_loader(data, cfg["data"]["batch_size"], 0)
    batches = [batch for batch, _ in zip(loader, range(STEPS), strict=False)]
    states = [build_state(cfg, data, len(loader)) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        times = measure(
            {
                "bare": lambda: bare(states[0], batches),
                "trainer": lambda: whole(states[1], Fixed(batches), Path(folder)),
            },
            rounds=rounds,
            budget=120.0,
        )
    steps = {name: 1e3 * result["median"] / len(batches) for name, result in times.items()}
    return {
        "part": "loop",
        "model": cfg["model"]["model_name"],
        "batch": cfg["data"]["batch_size"],
        "bare_ms": steps["bare"],
        "trainer_ms": steps["trainer"],
        "overhead_share": steps["trainer"] / steps["bare"] - 1,
    }


def reading(images: int = 256, side: int = 500) -> list[dict[str, Any]]:
    """Images per second of one and of two loader processes: JPEG of about ImageNet's size to augmented 224 px."""
    rng, found = np.random.RandomState(0), []
    with tempfile.TemporaryDirectory() as name:
        for index in range(images):
            folder = Path(name) / f"{index % 2}"
            folder.mkdir(exist_ok=True)
            coarse = Image.fromarray(rng.randint(0, 255, (12, 16, 3), dtype=np.uint8))
            coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(
                folder / f"{index}.jpg", quality=90
            )
        aug = {
            "color_jitter": 0.3,
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "re_prob": 0.25,
            "re_mode": "pixel",
        }
        data = image_folder(name, img_size=224, aug=aug)
        for workers in (1, 2):
            loader = train_loader(data, 32, 0, workers)
            list(loader)  # starts the processes
            begin = time.perf_counter()
            count = sum(len(batch) for batch, _ in loader)
            seconds = time.perf_counter() - begin
            found.append({"part": "reading", "workers": workers, "images_per_s": count / seconds})
    return found


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    write(
        "trainer",
        [overhead([], rounds), overhead(["data.batch_size=16"], rounds), *reading()],
        "Loop: milliseconds of a step of vim_digits on the digits, 16 px, in a bare loop and in the trainer's, and the "
        "share that the trainer adds. "
        "Reading: images per second, JPEG of 500 x 375 pixels decoded and augmented to 224 px.",
    )


if __name__ == "__main__":
    main()
