"""Reading pairs to learn super-resolution from: ``python benchmarks/cpu_pairs.py [crops|headers]``.

Files are as large as DF2K's, 2040 x 1356 pixels, made of the bundled photographs. Writes
``benchmarks/results/MACHINE/cpu_pairs_*.json``. Times are of the processor, not of the clock, so that other programs
do not count: what one core reads in a second of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import run_parts, table, write
from PIL import Image

from vimzoo.data import degraded_folder, paired_folder
from vimzoo.data.pairs.crops import image_size
from vimzoo.data.pairs.degradations import Degradation, Window, imresize, to_image
from vimzoo.data.pairs.photos import photo_files
from vimzoo.metrics import to_8bit

HEIGHT, WIDTH = 1356, 2040
SUB = 480  # side of BasicSR's sub-images
STEP = 240
CROP = 128
FLIPS = {"flip": True, "rotate": True}


def make_files(folder: Path, count: int) -> None:
    """Clean photographs in ``clean``, whole pairs at scale 2 in ``pairs``, their parts of 480 pixels in ``subs``."""
    rng = np.random.default_rng(0)
    for kind in ("clean", "pairs/high", "pairs/low", "subs/high", "subs/low"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        photo = (
            Image.open(photo_files("train")[number])
            .convert("RGB")
            .resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        )
        pixels = np.asarray(photo).astype(np.int16) + rng.integers(
            -3, 4, (HEIGHT, WIDTH, 3)
        )  # as sharp as a photograph
        high = pixels.clip(0, 255).astype(np.uint8)
        low = to_8bit(imresize(to_image(high), 0.5))
        Image.fromarray(high).save(folder / "clean" / f"{number}.png")
        Image.fromarray(high).save(folder / "pairs/high" / f"{number}.png")
        Image.fromarray(low).save(folder / "pairs/low" / f"{number}x2.png")
        for top in range(0, HEIGHT - SUB + 1, STEP):
            for left in range(0, WIDTH - SUB + 1, STEP):
                part = Window(top // 2, left // 2, SUB // 2, SUB // 2)
                name = f"{number}_{top}_{left}.png"
                Image.fromarray(high[part.slices(2)]).save(folder / "subs/high" / name)
                Image.fromarray(low[part.slices()]).save(folder / "subs/low" / name)


def processor_seconds(call: Callable[[], Any], least: float) -> float:
    """Seconds of the processor per call, over ``least`` seconds or more of them; the first call does not count."""
    call()
    begin, calls = time.process_time(), 0
    while (spent := time.process_time() - begin) < least or calls < 3:
        call()
        calls += 1
    return spent / calls


def crops_of(data: Any) -> Iterator[Any]:
    """Crop after crop, each of the next image."""
    index = 0
    while True:
        yield data.train[0, index]
        index += 1


def crops(quick: bool) -> None:
    """Crops of 128 pixels at scale 2: of whole files and of sub-images, decoded each time or kept in memory."""
    least, count = (0.5, 3) if quick else (6.0, 8)
    common: dict[str, Any] = dict(crop=CROP, crops=10**6, aug=FLIPS, val_fraction=0.2, test_fraction=0.2)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_files(folder, count)
        variants = {
            "clean files, reduced as they are read": lambda mb: degraded_folder(
                str(folder / "clean"), scale=2, cache_mb=mb, **common
            ),
            "pairs of whole files": lambda mb: paired_folder(str(folder / "pairs"), cache_mb=mb, **common),
            "pairs of sub-images of 480 pixels": lambda mb: paired_folder(
                str(folder / "subs"), cache_mb=mb, **common
            ),
        }
        for name, make in variants.items():
            for kept, megabytes in (("decoded for each crop", 0), ("kept in memory", 4096)):
                source = crops_of(make(megabytes))
                for _ in range(count if megabytes else 0):
                    next(source)
                seconds = processor_seconds(lambda source=source: next(source), least)
                rows.append({"files": name, "images": kept, "ms": seconds * 1e3, "crops_per_s": 1 / seconds})
        pixels = np.asarray(Image.open(folder / "clean" / "0.png"))
        whole = processor_seconds(lambda: to_8bit(imresize(to_image(pixels), 0.5)), least)
        part = processor_seconds(
            lambda: Degradation(scale=2).reduced(pixels, Window(300, 400, 64, 64)), least
        )
        rows.append(
            {"files": "reduction of a whole image alone", "ms": whole * 1e3, "crops_per_s": 1 / whole}
        )
        rows.append({"files": "reduction of a crop alone", "ms": part * 1e3, "crops_per_s": 1 / part})
    table(rows, ["files", "images", "ms", "crops_per_s"])
    write(
        "cpu_pairs_crops",
        rows,
        "milliseconds of one core per training pair of 128 pixels at scale 2, and pairs per second and core; "
        "sub-images as by BasicSR's scripts",
        extra={"load": os.getloadavg()[0]},
    )


def headers(quick: bool) -> None:
    """The size of a file by its header, which every start asks of all files, and its decoding."""
    least = 0.3 if quick else 2.0
    rows = []
    with tempfile.TemporaryDirectory() as place:
        make_files(Path(place), 1)
        file = Path(place) / "clean" / "0.png"
        calls: dict[str, Callable[[], Any]] = {
            "image_size": lambda: image_size(file),
            "decoding": lambda: np.asarray(Image.open(file)),
        }
        for name, call in calls.items():
            rows.append({"what": name, "ms": processor_seconds(call, least) * 1e3})
    table(rows, ["what", "ms"])
    write("cpu_pairs_headers", rows, f"milliseconds of one core for a PNG file of {WIDTH} x {HEIGHT} pixels")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["crops", "headers", []], help="default: both")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    run_parts({"crops": crops, "headers": headers}, asked.parts, asked.quick)
