"""Reading shards here and with the webdataset library: ``python benchmarks/shards.py``; needs ``webdataset``.

Both read the same shards of JPEG files as large as ImageNet's, decode and transform them by the same functions, and
form batches in as many loader processes. Writes ``benchmarks/results/MACHINE/shards.json``. Times are of the
processors, not of the clock, so that other programs do not count: what one core reads in a second of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import resource
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import table, write
from PIL import Image

from vimzoo.data import closing, shards, train_loader
from vimzoo.data.images.decode import read_image
from vimzoo.data.pairs.photos import photo_files

try:
    import webdataset
except ImportError:
    sys.exit("error: this compares with the webdataset library; pip install webdataset")

HEIGHT, WIDTH = 375, 500
BATCH = 64
SIDE = 224
AUG = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "hflip": 0.5}
SHUFFLED = 1000  # samples that webdataset shuffles among


def make_shards(folder: Path, count: int) -> int:
    """Two shards for training with ``count`` images each, cut from the bundled photographs; bytes of an image."""
    rng, sizes = np.random.default_rng(0), []
    photos = [Image.open(file).convert("RGB") for file in photo_files("train")]
    photos = [photo for photo in photos if min(photo.width / WIDTH, photo.height / HEIGHT) >= 1]
    for name, samples in (("train-0000", count), ("train-0001", count), ("val-0000", BATCH)):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for number in range(samples):
                photo = photos[number % len(photos)]
                left, top = rng.integers(photo.width - WIDTH + 1), rng.integers(photo.height - HEIGHT + 1)
                file = io.BytesIO()
                photo.crop((left, top, left + WIDTH, top + HEIGHT)).save(file, "JPEG", quality=95)
                for suffix, content in (("jpg", file.getvalue()), ("cls", b"%d" % (number % 10))):
                    member = tarfile.TarInfo(f"{name}-{number:06}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                sizes.append(len(file.getvalue()))
    return round(statistics.mean(sizes))


def ours(folder: Path, workers: int, data: Any) -> Iterator[int]:
    """Sizes of the batches of an epoch."""
    loader = train_loader(data, BATCH, seed=0, workers=workers)
    with closing(loader):
        for images, _ in loader:
            yield len(images)


def theirs(folder: Path, workers: int, data: Any) -> Iterator[int]:
    """As `ours`, by webdataset's loader as its documentation has it."""
    transform = data.train.images.transform

    def decoded(sample: tuple[bytes, bytes]) -> tuple[torch.Tensor, int]:
        return transform(read_image(io.BytesIO(sample[0])), None), int(sample[1])

    files = [str(folder / f"train-{number:04}.tar") for number in range(2)]
    dataset = webdataset.WebDataset(files, shardshuffle=len(files), seed=0).shuffle(SHUFFLED)
    batches = dataset.to_tuple("jpg", "cls").map(decoded).batched(BATCH, partial=False)
    for images, _ in webdataset.WebLoader(batches, batch_size=None, num_workers=workers):
        yield len(images)


def bytes_here(folder: Path, workers: int, data: Any) -> Iterator[int]:
    """Image files in random order, undecoded."""
    reader = data.train.images.reader
    for index in np.random.default_rng(0).permutation(len(reader)).tolist():
        with reader[index][0] as file:
            yield bool(file.read())


def bytes_there(folder: Path, workers: int, data: Any) -> Iterator[int]:
    """As `bytes_here`, by webdataset."""
    files = [str(folder / f"train-{number:04}.tar") for number in range(2)]
    dataset = webdataset.WebDataset(files, shardshuffle=len(files), seed=0).shuffle(SHUFFLED)
    for image, _ in dataset.to_tuple("jpg", "cls"):
        yield bool(image)


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(epoch: Callable[[], Iterator[int]]) -> float:
    """Images per second of one core."""
    begin = processor_seconds()
    images = sum(epoch())
    return images / (processor_seconds() - begin)


def main() -> None:
    """Measure both loaders, interleaved, and write the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few images and rounds, to see that it runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = make_shards(folder, BATCH * (2 if quick else 16))
        data = shards(str(folder), img_size=SIDE, aug=AUG)
        for what, workers, pair in (
            ("images, decoded and cropped", 1, (ours, theirs)),
            ("images, decoded and cropped", 2, (ours, theirs)),
            ("files", 0, (bytes_here, bytes_there)),
        ):
            speeds: list[list[float]] = [[], []]
            for _ in range(2 if quick else 5):
                for call, found in zip(pair, speeds, strict=True):
                    found.append(measured(lambda call=call, workers=workers: call(folder, workers, data)))
            here, there = map(statistics.median, speeds)
            ratio = statistics.median(a / b for a, b in zip(*speeds, strict=True))
            rows.append(
                {
                    "read": what,
                    "loader processes": workers,
                    "vimzoo": here,
                    "webdataset": there,
                    "ratio": ratio,
                }
            )
    table(rows, list(rows[0]))
    about = (
        f"images per second and core from shards of JPEG files of {WIDTH} x {HEIGHT} pixels and {size} bytes"
    )
    versions = {"webdataset": importlib.metadata.version("webdataset"), "load": os.getloadavg()[0]}
    write("shards", rows, f"{about}, cropped to {SIDE} pixels; medians of interleaved rounds", extra=versions)


if __name__ == "__main__":
    main()
