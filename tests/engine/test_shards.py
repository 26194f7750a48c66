"""Damaged and repeated WebDataset shards are refused by name before training."""

import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vimzoo.data import shards
from vimzoo.data.images.shard_reader import ShardChanged, ShardReader
from vimzoo.errors import UsageError

SAMPLES = 12


def png(number):
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def files(first, count=SAMPLES, prefix="s"):
    """Names and contents of ``count`` samples."""
    numbers = range(first, first + count)
    pairs = (((f"{prefix}{n:04}.png", png(n)), (f"{prefix}{n:04}.cls", str(n % 3).encode())) for n in numbers)
    return [file for pair in pairs for file in pair]


def tar(contents, form=tarfile.PAX_FORMAT):
    """The bytes of a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in contents:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(("train-0000", "train-0001", "val-0000")):
        (tmp_path / f"{name}.tar").write_bytes(tar(files(100 * number)))
    return tmp_path


WHOLE = tar(files(100))
with tarfile.open(fileobj=io.BytesIO(WHOLE)) as opened:
    MEMBERS = opened.getmembers()
    END = opened.offset
SAMPLE, DATA = MEMBERS[8].offset, MEMBERS[8].offset_data  # the fifth sample


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            WHOLE[: DATA + 100],
            r"unexpected end of data\); expected a whole tar file; copy or download it again",
        ),
        (WHOLE[: SAMPLE + 100], r"damaged or cut off at byte"),
        (WHOLE[:SAMPLE], r"ends without the mark of a tar file's end"),
        (WHOLE[: MEMBERS[9].offset], r"ends without the mark"),  # between an image and its class
        (WHOLE[:END], r"ends without the mark"),
        (WHOLE[: MEMBERS[-1].offset_data], r"unexpected end of data"),
        (WHOLE[:SAMPLE] + b"\xff" * 100 + WHOLE[SAMPLE + 100 :], rf"damaged or cut off at byte {SAMPLE}"),
        (WHOLE[: SAMPLE + 1] + b"X" + WHOLE[SAMPLE + 2 :], rf"damaged or cut off at byte {SAMPLE}"),
        (
            WHOLE[:SAMPLE] + bytes(512) + WHOLE[SAMPLE + 512 :],
            r"other data follow its end|bytes follow its end",
        ),
        (WHOLE[:SAMPLE] + bytes(len(WHOLE) - SAMPLE + 10240), r"bytes follow its end"),  # filled in part
        (WHOLE[: END + 1024] + WHOLE, r"bytes follow its end at byte"),
        (WHOLE + b"x", r"other data follow its end"),
        (b"", r" is empty"),
        (bytes(10240), r" holds no samples"),
        (b"x" * 2000, r"no readable shard"),
        (gzip.compress(WHOLE), r"is compressed \(gzip\); expected an uncompressed tar file"),
        (tar([*files(100), ("s0100.jpg", png(1))]), r"two images or classes have the key s0100"),
        (tar([*files(100), ("s0100.cls", b"1")]), r"two images or classes have the key s0100"),
        (tar([("a.png", png(1)), ("a.cls", b"cat")]), r"a.cls holds b'cat'; expected a class number"),
        (tar([("a.png", png(1)), ("a.cls", b"-1")]), r"a.cls holds b'-1'"),
        (tar([("a.png", png(1)), ("a.cls", b"")]), r"a.cls holds b''"),
        (tar([("a.png", png(1))]), r"1 samples lack an image or a class, such as a"),
    ],
)
def test_a_damaged_shard_is_refused(root: Any, content: Any, message: str) -> None:
    (root / "train-0001.tar").write_bytes(content)
    with pytest.raises(UsageError, match=rf"train-0001\.tar.*({message})"):
        shards(str(root))


@pytest.mark.parametrize("size", range(512, len(WHOLE), 512))
def test_no_cut_is_read_as_a_whole_shard(root: Any, size: Any) -> None:
    """Cut at any block; all samples are there once their end has begun."""
    (root / "train-0001.tar").write_bytes(WHOLE[:size])
    if size > END:
        assert len(ShardReader([root / "train-0001.tar"])) == SAMPLES
        return
    with pytest.raises(UsageError, match=r"train-0001.tar"):
        ShardReader([root / "train-0001.tar"])


def test_links_in_a_shard(root: Any) -> None:
    """`tar` writes the second of two names of a file as a link without contents."""
    out = io.BytesIO(WHOLE)
    with tarfile.open(fileobj=out, mode="a") as archive:
        for name, kind in (("x.png", tarfile.LNKTYPE), ("x.cls", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "s0101" + name[1:]
            archive.addfile(info)
    (root / "train-0001.tar").write_bytes(out.getvalue())
    reader = ShardReader([root / "train-0001.tar"])
    file, number = reader[SAMPLES]
    assert file.read() == png(101) and number == 101 % 3
    with tarfile.open(root / "train-0001.tar", "a") as archive:
        info = tarfile.TarInfo("y.png")
        info.type, info.linkname = tarfile.SYMTYPE, "s0101.png"
        archive.addfile(info)
    with pytest.raises(UsageError, match=r"train-0001.tar: y.png is a link.*--dereference"):
        shards(str(root))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names(root: Any, form: Any) -> None:
    prefix = "ordner/" + "größe" * 50
    (root / "train-0001.tar").write_bytes(tar(files(100, prefix=prefix), form))
    reader = ShardReader([root / "train-0001.tar"])
    assert [reader[n][0].read() for n in range(SAMPLES)] == [png(100 + n) for n in range(SAMPLES)]
    assert reader.filename(3).endswith(f"train-0001.tar/{prefix}0103")


@pytest.mark.parametrize("copy", [shutil.copyfile, os.link, os.symlink])
def test_one_shard_under_two_names(root: Any, copy: Any) -> None:
    copy(root / "train-0000.tar", root / "train-0002.tar")
    with pytest.raises(
        UsageError, match=r"train-0002.tar holds the same samples as .*train-0000.tar; expected each"
    ):
        shards(str(root))
    (root / "train-0002.tar").rename(root / "val-0001.tar")
    with pytest.raises(
        UsageError, match=r"val-0001.tar, for validation, .* as .*train-0000.tar, for training"
    ):
        shards(str(root))


def test_samples_packed_again_are_the_same_samples(root: Any) -> None:
    (root / "train-0002.tar").write_bytes(tar([*files(500, 2), *reversed(files(100))], tarfile.GNU_FORMAT))
    with pytest.raises(UsageError, match=r"train-0002.tar holds the same samples as .*train-0001.tar"):
        shards(str(root))


def test_validation_may_be_all_of_training(root: Any) -> None:
    (root / "train-0001.tar").unlink()
    shutil.copyfile(root / "train-0000.tar", root / "val-0000.tar")
    assert "validation holds the same samples as training" in shards(str(root)).notes[0]


def test_what_a_person_should_know_of_shards(root: Any) -> None:
    """Keys that begin anew in every shard are different samples; numbers that are left out may be lost shards."""
    assert shards(str(root)).notes == ()
    renamed = [(f"s{100 + n // 2:04}{name[5:]}", content) for n, (name, content) in enumerate(files(300))]
    (root / "train-0003.tar").write_bytes(tar(renamed))
    (root / "train-0004.tar.part").write_bytes(WHOLE[:100])
    left, gap, keys = shards(str(root)).notes
    assert left == "left out: 1 files that do not end in .tar, such as train-0004.tar.part"
    assert gap == "train: 1 shards seem to be missing, such as the one after train-0001.tar"
    assert keys.startswith("keys stand in several shards, with different images: ")
    (root / "train-0002.tar.gz").write_bytes(gzip.compress(WHOLE))
    with pytest.raises(UsageError, match=r"train-0002.tar.gz and 0 more are compressed"):
        shards(str(root))


def test_a_shard_that_changes_during_a_run_ends_it(root: Any) -> None:
    """Also where there is another image at its old place: it would come under the class of the old one."""
    data = shards(str(root), img_size=8, max_unreadable=1.0)
    before = data.train[0, SAMPLES]
    assert torch.equal(before[0], data.train[0, SAMPLES][0])
    (root / "train-0001.tar").write_bytes(tar(files(100 + 1)))
    with pytest.raises(ShardChanged, match=r"train-0001.tar has changed .*s0100 is not where it was"):
        data.train[0, SAMPLES]


def test_the_digest_tells_shards_apart(root: Any, tmp_path: Path) -> None:
    def digest():
        return ShardReader(sorted(root.glob("train-*.tar"))).digest()

    before = digest()
    moved = shutil.copytree(root, tmp_path / "moved")
    assert ShardReader(sorted(moved.glob("train-*.tar"))).digest() == before
    classes = [(name, b"0" if name.endswith("cls") else content) for name, content in files(100)]
    for content in (tar(classes), tar(files(101)), tar(files(100, SAMPLES - 1))):
        (root / "train-0001.tar").write_bytes(content)
        assert digest() != before
    (root / "train-0001.tar").write_bytes(WHOLE)
    assert digest() == before
