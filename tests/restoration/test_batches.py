"""Pictures side by side: tiles of several in one batch, reading and writing beside the model, saved before told."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import Same
from PIL import Image

from vimzoo import files as atomic
from vimzoo.restoration import Restorer, find_jobs, read_picture, restore_files
from vimzoo.restoration.ahead import Pending, ahead
from vimzoo.restoration.batches import interleaved


def pixels(number: int, height: int = 16, width: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)


class Counting(Same):
    """Counts the tiles of each batch; some pictures or too many tiles fail."""

    def __init__(self, batch: int, most: int = 1000, tile: int = 16) -> None:
        super().__init__()
        self.batch, self.most, self.tile, self.overlap = batch, most, tile, 0
        self.sizes: list[tuple[int, int]] = []

    def _run(self, tiles: Any, places: Any, *, part: int, white: float) -> Any:
        self.sizes.append((len(tiles), tiles.shape[3]))
        if len(tiles) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if (tiles == 77).flatten(1).all(1).any():
            raise FloatingPointError("the model returned NaN")
        return super()._run(tiles, places, part=part, white=white)


def run(restorer: Restorer, arrays: list[np.ndarray]) -> dict[int, Any]:
    works = ((number, restorer.steps(array), array.size) for number, array in enumerate(arrays))
    return dict(interleaved(works, restorer))


def test_tiles_of_equal_size_share_batches() -> None:
    """Of pictures with one tile and with several, in an order that depends on the pictures alone."""
    arrays = [pixels(n, 16, 16 if n % 2 else 12) for n in range(12)]
    arrays.insert(3, pixels(20, 16, 80))
    restorer = Counting(4)
    found = run(restorer, arrays)
    assert all(np.array_equal(found[number], array) for number, array in enumerate(arrays))
    assert sum(count for count, _ in restorer.sizes) == 12 + 5
    assert sorted(restorer.sizes) == [(2, 12), (3, 16), (4, 12), (4, 16), (4, 16)]
    again = Counting(4)
    run(again, arrays)
    assert again.sizes == restorer.sizes
    alone = Counting(1)
    assert all(np.array_equal(run(alone, arrays)[n], array) for n, array in enumerate(arrays))
    assert {count for count, _ in alone.sizes} == {1}


def test_alpha_and_grey_share_batches_with_their_kind() -> None:
    arrays = [pixels(n, channels=n % 4 + 1).clip(1) for n in range(8)]
    restorer = Counting(8)
    found = run(restorer, arrays)
    assert all(np.array_equal(found[number], array) for number, array in enumerate(arrays))
    assert len(restorer.sizes) < 12


def test_answers_are_those_of_each_picture_alone(small: Any) -> None:
    model = small("light_x2")
    arrays = [pixels(n, 24, 20 + 4 * (n % 2)) for n in range(6)]
    found = run(Restorer(model, batch=4, tile=16, overlap=4), arrays)
    for number, array in enumerate(arrays):
        alone = Restorer(model, tile=16, overlap=4)(array)
        assert np.abs(found[number].astype(int) - alone).max() <= 1


def test_a_picture_that_fails_fails_alone() -> None:
    arrays = [pixels(n) for n in range(4)]
    arrays[2][:] = 77
    found = run(Counting(4), arrays)
    assert isinstance(found[2], FloatingPointError)
    assert all(np.array_equal(found[n], arrays[n]) for n in (0, 1, 3))


def test_lack_of_memory_lowers_the_batch_and_loses_no_picture(caplog: Any) -> None:
    restorer = Counting(8, most=3)
    arrays = [pixels(n) for n in range(20)]
    found = run(restorer, arrays)
    assert all(np.array_equal(found[number], array) for number, array in enumerate(arrays))
    assert restorer.batch == 2 and "out of memory with 8 tiles at once; continuing with 4" in caplog.text


def test_large_pictures_are_not_held_to_fill_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimzoo.restoration.batches.ROOM", 1000)
    begun: list[int] = []

    def works() -> Iterator[Any]:
        for number in range(6):
            begun.append(number)
            yield number, restorer.steps(pixels(number)), 600

    restorer = Counting(6)
    for done, _ in enumerate(interleaved(works(), restorer)):
        assert len(begun) <= done + 3
    assert {count for count, _ in restorer.sizes} == {2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "below").mkdir(parents=True)
    for number in range(40):
        place = "below" if number % 3 else "."
        Image.fromarray(pixels(number)).save(tmp_path / "in" / place / f"{number:02}.png")
    return tmp_path


@pytest.mark.parametrize("encoded_here", (0, 1 << 16))
def test_a_picture_counts_when_it_is_on_the_disk(
    encoded_here: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are synced before it has its name, and its folder after that; several share a sync."""
    steps: list[tuple[str, str]] = []
    real_sync, real_replace = atomic.os.fsync, Path.replace

    def fsync(handle: int) -> None:
        time.sleep(0.002)
        steps.append(("sync", str(Path(f"/proc/self/fd/{handle}").resolve())))
        real_sync(handle)

    def replace(self: Path, target: Path) -> Any:
        steps.append(("rename", f"{self} {target}"))
        return real_replace(self, target)

    def noted(stream: Any, work: Any) -> Iterator[Any]:
        for index, reason in stream(enumerate(work)):
            target = work[index][0].target
            said.append((index, reason))
            (renamed,) = (
                n for n, (what, names) in enumerate(steps) if what == "rename" and str(target) in names
            )
            temporary = steps[renamed][1].split()[0]
            assert ("sync", temporary) in steps[:renamed]
            assert ("sync", str(target.parent)) in steps[renamed:]
            yield index, reason

    said: list[Any] = []
    monkeypatch.setattr("vimzoo.restoration.stream.ENCODED_HERE", encoded_here)
    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    jobs = find_jobs(folder / "in", folder / "out")
    report = restore_files(jobs, Same(), quiet=True, shared=noted)
    assert len(report.restored) == len(said) == 40 and not report.failed
    assert report.restored == jobs
    assert sum(Path(name).is_dir() for what, name in steps if what == "sync") <= 6  # of two folders


def test_results_that_cannot_be_made_durable_are_not_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        if folder.name == "below":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("vimzoo.restoration.stream.sync_folder", full)
    report = restore_files(find_jobs(folder / "in", folder / "out"), Same(), quiet=True)
    assert {reason for _, reason in report.failed} == {"No space left on device"}
    assert {job.target.parent.name for job, _ in report.failed} >= {"below"}


def test_reading_and_writing_overlap_with_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call of the model the next pictures are read, and the last ones may still be written."""
    reading, writing, running = set[int](), set[int](), threading.get_ident()

    def read(*args: Any, **kwargs: Any) -> Any:
        reading.add(threading.get_ident())
        return read_picture(*args, **kwargs)

    def write(*_: Any, **__: Any) -> None:
        writing.add(threading.get_ident())
        time.sleep(0.02)

    monkeypatch.setattr("vimzoo.restoration.stream.read_picture", read)
    monkeypatch.setattr("vimzoo.restoration.stream.ENCODED_HERE", 0)
    monkeypatch.setattr("vimzoo.restoration.stream.LocalDisk.write", write)
    start = time.monotonic()
    report = restore_files(find_jobs(folder / "in", folder / "out"), Same(), quiet=True)
    assert len(report.restored) == 40 and time.monotonic() - start < 0.75 * 40 * 0.02
    assert running not in reading | writing and reading and len(writing) > 1


def test_results_are_written_before_memory_is_said_to_be_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimzoo.restoration.stream.SMALL", 0)
    held: list[Path] = []

    def write(self: Any, picture: Any, job: Any, quality: int) -> None:
        held.append(job.target)
        time.sleep(0.01)
        held.remove(job.target)

    monkeypatch.setattr("vimzoo.restoration.stream.ENCODED_HERE", 0)
    monkeypatch.setattr("vimzoo.restoration.stream.LocalDisk.write", write)
    monkeypatch.setattr("vimzoo.restoration.stream.available_bytes", lambda device: 0 if held else 1 << 30)
    report = restore_files(find_jobs(folder / "in", folder / "out"), Same(), quiet=True)
    assert len(report.restored) == 40


def test_what_is_ahead_is_bounded() -> None:
    begun: list[int] = []

    def do(item: int) -> int:
        begun.append(item)
        return item

    with ThreadPoolExecutor(4) as pool:
        for item, future in ahead(pool, do, range(50), lambda item: 10, most=5):
            assert future.result() == item and len(begun) <= item + 1 + 5
        begun.clear()
        for item, future in ahead(pool, do, range(50), lambda item: 10, most=50, room=30):
            assert future.result() == item and len(begun) <= item + 3
        begun.clear()
        for item, future in ahead(pool, do, range(5), lambda item: 100, most=50, room=30):
            assert future.result() == item and len(begun) == item + 1  # a large one is alone
        pending, free = Pending[int](pool, most=3, room=25), threading.Semaphore(0)
        for key in (0, 1):
            pending.add(key, 10, free.acquire)
        adding = threading.Thread(target=pending.add, args=(2, 10, int))
        adding.start()
        adding.join(0.05)
        assert adding.is_alive() and not list(pending.finished())
        free.release()
        adding.join(5)
        free.release()
        assert {key for key, error in pending.all() if error is None} == {0, 1, 2}
