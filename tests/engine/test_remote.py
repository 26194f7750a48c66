"""Shards and pictures below a URL are those on the disk, whatever the connection does."""

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_helpers import composed, make_images
from unsteady_server import serving

from vimzoo.data import eval_loader, image_folder, shards, train_loader
from vimzoo.data.images import retries
from vimzoo.data.images.cache import KeptParts
from vimzoo.data.images.classes import numbered_as
from vimzoo.data.images.remote import Remote
from vimzoo.data.images.retries import Unreachable, retried
from vimzoo.data.images.shard_reader import ShardChanged
from vimzoo.data.sources.shards import expanded
from vimzoo.engine import launch
from vimzoo.errors import UsageError

COUNTS = {"train-0000": 13, "train-0001": 17, "train-0002": 10, "val-0000": 11}
SMALL = {"img_size": 16, "aug": {"hflip": 0.5}}


def pack(path, first, count):
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + count):
            image = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, "PNG")
            for name, content in (
                (f"s{number}.png", image.getvalue()),
                (f"s{number}.cls", b"%d" % (number % 3)),
            ):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), first
                archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def packed(tmp_path):
    root = tmp_path / "packed"
    root.mkdir()
    for part, (name, count) in enumerate(COUNTS.items()):
        pack(root / f"{name}.tar", 100 * part, count)
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


@pytest.fixture(autouse=True)
def a_disk_with_room(monkeypatch):
    """Whatever the disk of this machine holds."""
    monkeypatch.setattr("vimzoo.data.images.cache.FULL", 1.0)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retries, "DELAYS", (0.01,) * 12)
    monkeypatch.setattr("vimzoo.data.images.remote.SILENCE", 0.3)


@pytest.fixture
def server(packed, quick):
    pytest.importorskip("aiohttp")
    with serving(packed) as running:
        yield running


def equal(one, other):
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True))


def test_an_unsteady_server_gives_what_a_disk_gives(server: Any, packed: Any, tmp_path: Path) -> None:
    """With and without worker processes and cache; only the first epoch asks for images."""
    local, cache = shards(str(packed), **SMALL), str(tmp_path / "cache")
    wanted = list(train_loader(local, 8, seed=1))
    for workers, kept in ((0, None), (2, None), (2, cache), (0, cache)):
        data = shards(server.url, cache=kept, **SMALL)
        assert (
            data.classes == ("a", "b", "c")
            and data.train.images.reader.digest() == local.train.images.reader.digest()
        )
        assert equal(train_loader(data, 8, seed=1, workers=workers), wanted)
        assert equal(eval_loader(data.val, 4, workers), eval_loader(local.val, 4)) and not data.unreadable()
    assert min(server.asked["/train-0001.tar", what] for what in (503, "GET")) > 0
    server.asked.clear()
    server.steady = True  # to tell a size, fsspec gets the file where the server refuses HEAD
    data = shards(server.url, cache=cache, **SMALL)
    assert equal(train_loader(data, 8, seed=1), wanted)
    assert not any(server.asked[f"/{name}.tar", "GET"] for name in COUNTS)  # headers and images are kept


def test_every_sample_once_by_processes_and_workers_and_resumed(
    server: Any, packed: Any, tmp_path: Path
) -> None:
    """Two processes with two workers each share a cache; they continue with the batch where they were interrupted."""
    data = shards(server.url, cache=str(tmp_path / "cache"), **SMALL)
    wanted = list(train_loader(shards(str(packed), **SMALL), 8, seed=3))
    loaders = [train_loader(data, 8, seed=3, workers=2, rank=rank, world=2) for rank in range(2)]
    halves = [iter(loader) for loader in loaders]
    first = [[next(half) for _ in range(2)] for half in halves]  # then both are killed
    del halves
    again = shards(server.url, cache=str(tmp_path / "cache"), **SMALL)
    rest = [train_loader(again, 8, seed=3, workers=2, rank=rank, world=2) for rank in range(2)]
    for loader in rest:
        loader.batch_sampler.start = 2
    both = [begun + list(loader) for begun, loader in zip(first, rest, strict=True)]
    joined = [tuple(torch.cat(pair) for pair in zip(a, b, strict=True)) for a, b in zip(*both, strict=True)]
    assert equal(joined, wanted)
    seen = [key for part in (0, 1) for batch in loaders[part].batch_sampler for key in batch]
    assert len(seen) == len(set(seen)) == 40


def test_pictures_from_an_unsteady_server(tmp_path: Path, quick: Any) -> None:
    pytest.importorskip("aiohttp")
    root = make_images(
        tmp_path / "photos",
        {f"{part}/{name}": 6 for part in ("train", "val") for name in ("cat", "big dog#1")},
    )
    (root / "train/cat/.hidden.jpg").write_bytes(b"")
    (root / "train/cat/notes.txt").write_text("")
    local = image_folder(str(root), **SMALL)
    with serving(root) as server:
        for workers in (0, 2):
            data = image_folder(server.url, cache=str(tmp_path / "cache"), **SMALL)
            assert (data.classes, data.notes) == (local.classes, local.notes)
            assert all(np.array_equal(data.members[part], local.members[part]) for part in ("train", "val"))
            assert equal(train_loader(data, 4, seed=1, workers=workers), train_loader(local, 4, seed=1))
            assert equal(eval_loader(data.val, 4, workers), eval_loader(local.val, 4))
        (root / "train/cat/1.jpg").unlink()
        gone = image_folder(server.url, max_unreadable=0.5, **SMALL)
        (root / "train/cat/2.jpg").unlink()
        list(train_loader(gone, 4, seed=1))
        assert gone.unreadable() == ["cat/2.jpg"]  # as on a disk
        assert data.record()["root"] == server.url


def test_shards_in_memory(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file system of fsspec."""
    import fsspec

    fsspec.filesystem("memory").put(f"{packed}/", "/data/", recursive=True)
    local = shards(str(packed), **SMALL)
    for root in ("memory://data", f"file://{packed}"):
        data = shards(root, **SMALL)
        assert equal(train_loader(data, 8, seed=1), train_loader(local, 8, seed=1)), root
    data, asked, read = shards("memory://data", **SMALL), [], Remote.read
    monkeypatch.setattr(Remote, "read", lambda self, ranges: asked.append(len(ranges)) or read(self, ranges))
    for images in (data.train, numbered_as(data, ("c", "b", "a"), "a model").train):
        keys = [(0, index) for index in range(12)]
        images.__getitems__(keys)
    assert asked == [12, 12]  # a batch at once
    with pytest.raises(UsageError, match=r"`root`=nothing://x: .*expected a folder or a URL of fsspec"):
        shards("nothing://x")


def test_what_a_url_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        UsageError, match=r"`root`=s3://bucket/x: pip install 'vimzoo\[remote\]' installs what reads it"
    ):
        shards("s3://bucket/x")
    with pytest.raises(UsageError, match=r"`split`=order: expected names where `root` is a URL"):
        image_folder("s3://bucket/x", split="order")


def test_shards_of_a_server_that_lists_nothing(server: Any, packed: Any) -> None:
    server.lists = False
    with pytest.raises(UsageError, match=r"`root`=http://127.0.0.1:\d+: .*no such file"):
        shards(server.url)
    data = shards(server.url, train="train-{0000..0002}.tar", val=["val-0000.tar"], **SMALL)
    assert equal(train_loader(data, 8, seed=1), train_loader(shards(str(packed), **SMALL), 8, seed=1))
    assert expanded("{a,b}-{08..11}.tar")[:5] == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar", "b-08.tar"]


def test_what_stays_refused_ends_before_training(
    server: Any, packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"train": "train-{0000..0003}.tar", "val": "val-0000.tar"}
    with pytest.raises(UsageError, match=r"train-0003.tar: no such file"):
        shards(server.url, **given)
    server.forbidden.add("/train-0002.tar")
    with pytest.raises(UsageError, match=r"train-0002.tar cannot be read \(HTTP status 403\)"):
        shards(server.url)
    server.forbidden.clear()
    server.ranges = False
    with pytest.raises(UsageError, match=r"the server sends whole files; expected byte ranges"):
        shards(server.url)
    server.ranges = True
    (packed / "train-0001.tar").write_bytes((packed / "train-0001.tar").read_bytes()[:20000])
    with pytest.raises(UsageError, match=r"train-0001.tar.*expected a whole tar file"):
        shards(server.url)
    server.lost = True
    monkeypatch.setattr(retries, "DELAYS", (0.01,))
    with pytest.raises(UsageError, match=r"cannot be read, 2 times \(Server"):
        shards(server.url)


def test_a_shard_that_changes_on_the_server(server: Any, packed: Any, tmp_path: Path) -> None:
    """In the middle of a run it ends the run; at the next start it is read anew, whatever the cache holds."""
    cache = str(tmp_path / "cache")
    data = shards(server.url, cache=cache, max_unreadable=1.0, **SMALL)
    digest = data.train.images.reader.digest()
    pack(packed / "train-0001.tar", 200, 17)
    with pytest.raises(ShardChanged, match=r"train-0001.tar has changed since it was opened"):
        list(train_loader(data, 8, seed=1))
    pack(packed / "train-0001.tar", 500, 17)
    again = shards(server.url, cache=cache, **SMALL)
    assert again.train.images.reader.digest() != digest
    assert equal(train_loader(again, 8, seed=1), train_loader(shards(str(packed), **SMALL), 8, seed=1))
    (packed / "train-0001.tar").unlink()
    with pytest.raises(ShardChanged, match=r"its shard is gone"):
        list(train_loader(shards_without_cache(again), 8, seed=1))


def shards_without_cache(data):
    data.train.images.reader.fetched.kept = None
    return data


def test_a_server_that_is_lost_ends_the_run(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that cannot be fetched is not replaced as an unreadable one is."""
    data = shards(server.url, max_unreadable=1.0, **SMALL)
    server.lost = True
    monkeypatch.setattr(retries, "DELAYS", (0.01,))
    with pytest.raises(Unreachable, match=r"\.tar cannot be read, 2 times"):
        list(train_loader(data, 8, seed=1))


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(retries.time, "sleep", waits.append)
    with pytest.raises(Unreachable, match=r"x cannot be read, 8 times \(TimeoutError: slow"):
        retried(lambda: (_ for _ in ()).throw(TimeoutError("slow")), "x")
    assert len(waits) == 7 and all(d / 2 <= w <= d for d, w in zip(retries.DELAYS, waits, strict=True))


def test_what_a_killed_process_left_in_the_cache_is_read_again(tmp_path: Path) -> None:
    kept = KeptParts(tmp_path / "a", [3, 5, 4])
    kept.put(1, b"first")
    assert [kept.get(number) for number in range(3)] == [None, b"first", None]
    with open(tmp_path / "a.parts", "r+b") as file:
        file.seek(4)
        file.write(b"?")
    assert kept.get(1) is None


def test_a_full_disk_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimzoo.data.images.cache.FULL", 0.0)
    with pytest.warns(UserWarning, match=r"cache is full \(0% of its disk is in use\); the rest is read"):
        KeptParts(tmp_path / "a", [3]).put(0, b"abc")
    assert KeptParts(tmp_path / "a", [3]).get(0) is None


def test_a_run_on_remote_shards(server: Any, tmp_path: Path) -> None:
    words = [
        "model=timm",
        "model.model_name=test_vit",
        "+model.img_size=16",
        "data=shards",
        "data.img_size=16",
    ]
    words += [
        f"data.root={server.url}",
        f"data.cache={tmp_path / 'cache'}",
        "data.workers=2",
        "data.batch_size=8",
    ]
    words += ["data.train='train-{0000..0002}.tar'"]
    launch(
        composed(*words, "run.epochs=1", "run.device=cpu", "data.val='val-{0000..0000}.tar'"),
        tmp_path / "out",
    )
    assert (tmp_path / "out/metrics.csv").read_text().count("\n") == 2
