"""Images in LMDB databases as BasicSR writes them: the same data set as from the files they were made from."""

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vimzoo.data import degraded_folder, paired_folder, train_loader
from vimzoo.data.pairs.crops import image_size, read_pixels
from vimzoo.data.pairs.stored import _Bytes, opened
from vimzoo.errors import UsageError


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(height * 99 + width).randint(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Twelve pairs at scale 2, some in folders, one with a dot in its name."""
    for i in range(12):
        name = f"{i:02}" if i < 8 else f"clip/{i}/im1.v2"
        picture(tmp_path / "files" / "high" / f"{name}.png", 40 + 2 * i, 48)
        picture(tmp_path / "files" / "low" / f"{name}.png", 20 + i, 24)
    return tmp_path / "files"


def stored(folder: Path, target: Path) -> Path:
    """The files of a folder in a database: names without suffix, and their bytes."""
    lmdb = pytest.importorskip("lmdb")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*") if path.is_file())
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with (
        lmdb.open(str(target), map_size=1 << 26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for name in names:
            height, width = image_size(folder / name)
            lines.append(f"{name.as_posix()} ({height},{width},3) 1\n")
            transaction.put(name.with_suffix("").as_posix().encode(), (folder / name).read_bytes())
    (target / "meta_info.txt").write_text("".join(lines))
    return target


def split_names(data, *roots: Path) -> list[list[str]]:
    """Names of the clean images of each part, relative to the root that holds them."""
    return [
        [
            next(str(path.relative_to(root)) for root in roots if path.is_relative_to(root))
            for path in pairs.high
        ]
        for pairs in (data.train.pairs, data.val.pairs, data.test.pairs)
    ]


@pytest.mark.parametrize(
    ("low", "high"),
    (
        ("LQ.lmdb", "GT.lmdb"),
        ("low/DIV2K_LR_bicubic_X2_sub.lmdb", "high/DIV2K_HR_sub.lmdb"),
        ("low.lmdb", "high"),
    ),
)
def test_pairs_are_those_of_the_files(files: Path, tmp_path: Path, low: str, high: str) -> None:
    root = tmp_path / "stored"
    stored(files / "low", root / low)
    if high.endswith(".lmdb"):
        stored(files / "high", root / high)
    else:
        shutil.copytree(files / "high", root / high)
    plain, data = (paired_folder(str(path), crop=16, crops=24) for path in (files, root))
    assert data.scale == 2 and data.notes == ()
    assert split_names(data, root / high) == split_names(plain, files / "high")
    for index in range(24):
        assert all(map(torch.equal, data.train[2, index], plain.train[2, index]))
    assert all(map(torch.equal, data.test[0], plain.test[0]))
    assert data.test.names == plain.test.names


def test_clean_images_of_a_data_base(files: Path, tmp_path: Path) -> None:
    plain = degraded_folder(str(files / "high"), sigma=5, crop=16)
    base = stored(files / "high", tmp_path / "stored" / "DIV2K.lmdb")
    for root in (base, base.parent):
        data = degraded_folder(str(root), sigma=5, crop=16)
        assert split_names(data, base) == split_names(plain, files / "high")
        assert all(map(torch.equal, data.val[0], plain.val[0])) and data.notes == ()
    (tmp_path / "list.txt").write_text("02.png (44,48,3) 1\nclip/9/im1.v2.png\n")
    words = dict(sigma=5, crop=16, test_fraction=1, meta_info=str(tmp_path / "list.txt"))
    assert degraded_folder(str(base), **words).test.names == ["02", "im1.v2"]


def test_several_data_bases_and_splits(files: Path, tmp_path: Path) -> None:
    for kind in ("low", "high"):
        for name in ("Set5", "Set14"):
            stored(files / kind, tmp_path / "sets" / kind / f"{name}.lmdb")
        for part in ("Train", "Val"):
            stored(files / kind, tmp_path / "divided" / part / f"{kind}.lmdb")
    data = paired_folder(str(tmp_path / "sets"), test_fraction=1, crop=16)
    assert {path.relative_to(tmp_path / "sets/high").parts[0] for path in data.test.pairs.high} == {
        "Set5.lmdb",
        "Set14.lmdb",
    }
    assert [len(data.test), data.test[0][1].shape[1:]] == [24, data.test[12][1].shape[1:]]
    data = paired_folder(str(tmp_path / "divided"), crop=16)
    assert (len(data.train.pairs), len(data.val), data.test) == (12, 12, None)
    stored(files / "high", tmp_path / "clean" / "train.lmdb")
    stored(files / "low", tmp_path / "clean" / "Validation.lmdb")
    data = degraded_folder(str(tmp_path / "clean"), sigma=5, crop=16)
    assert (len(data.train.pairs), len(data.val)) == (12, 12)
    assert data.notes == ("train.lmdb/ is train, Validation.lmdb/ is val",)


def test_loader_processes_read_what_was_read_before_them(files: Path, tmp_path: Path) -> None:
    """LMDB refuses a database that a process, or the one it was forked from, has open."""
    base = stored(files / "high", tmp_path / "GT.lmdb")
    data = degraded_folder(str(base), sigma=25, crop=16, crops=12, cache_mb=0)
    alone, helped = (list(train_loader(data, 4, seed=1, workers=count)) for count in (0, 2))
    assert all(
        torch.equal(a, b) for x, y in zip(alone, helped, strict=True) for a, b in zip(x, y, strict=True)
    )
    copy = pickle.loads(pickle.dumps(data.train))  # as spawned processes get it
    assert all(map(torch.equal, copy[1, 3], data.train[1, 3]))


def test_sizes_come_from_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upright, as pixels are read, and without reading the rest of an image."""
    turned = Image.Exif()
    turned[0x0112] = 6
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (300, 400, 3), dtype=np.uint8))
    (tmp_path / "files").mkdir()
    noise.save(tmp_path / "files" / "plain.png")
    noise.save(tmp_path / "files" / "turned.png", exif=turned)
    noise.save(tmp_path / "files" / "turned.jpg.jpg", exif=turned)
    base, read = stored(tmp_path / "files", tmp_path / "GT.lmdb"), []
    original = _Bytes.readinto
    monkeypatch.setattr(
        _Bytes, "readinto", lambda self, buffer: (read.append(n := original(self, buffer)), n)[1]
    )
    for name, size in (("plain.png", (300, 400)), ("turned.png", (400, 300)), ("turned.jpg.jpg", (400, 300))):
        read.clear()
        assert image_size(base / name) == size
        assert 0 < sum(read) < 30_000 < (tmp_path / "files" / name).stat().st_size
        assert np.array_equal(read_pixels(base / name), read_pixels(tmp_path / "files" / name))


def test_stored_bytes_are_a_file(files: Path, tmp_path: Path) -> None:
    base, whole = stored(files / "high", tmp_path / "GT.lmdb"), (files / "high" / "03.png").read_bytes()
    with opened(base / "03.png") as file:
        assert file.read() == whole and file.read(3) == b""
        assert file.seek(-5, io.SEEK_END) == len(whole) - 5 and file.read(9) == whole[-5:]
        assert (
            file.seek(4) == 4 and file.seek(3, io.SEEK_CUR) == 7 == file.tell() and file.read(2) == whole[7:9]
        )


def test_unusable_data_bases_are_named(files: Path, tmp_path: Path) -> None:
    base = stored(files / "high", tmp_path / "GT.lmdb")
    names = (base / "meta_info.txt").read_text()
    (base / "meta_info.txt").write_text(names + "other.png (9,9,3) 1\n")
    with pytest.raises(
        UsageError, match=r"other.png: GT.lmdb holds no 'other', but its meta_info.txt lists it"
    ):
        degraded_folder(str(base), sigma=5, crop=16, val_fraction=0.01, test_fraction=0)
    (base / "meta_info.txt").write_text(names)
    whole = (base / "data.mdb").read_bytes()
    for content, says in (
        (whole[: len(whole) // 2], rf"data.mdb is cut off: {len(whole) // 2} bytes, expected {len(whole)}"),
        (b"x" * 9000, "not a readable LMDB database"),
        (b"", "not a readable LMDB database"),
    ):
        (base / "data.mdb").write_bytes(content)
        with pytest.raises(UsageError, match=says):
            degraded_folder(str(base), sigma=5, crop=16)
    (base / "data.mdb").write_bytes(whole)
    base.rename(tmp_path / "GT")
    with pytest.raises(UsageError, match=r"GT is an LMDB database; expected a name that ends in \.lmdb"):
        degraded_folder(str(tmp_path / "GT"), sigma=5)


def test_what_a_data_base_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    base = tmp_path / "GT.lmdb"
    base.mkdir()
    (base / "data.mdb").write_bytes(b"anything")
    with pytest.raises(UsageError, match=r"`root`: .*meta_info\.txt: cannot be read"):
        degraded_folder(str(base), sigma=5)
    (base / "meta_info.txt").write_text("a.png (24,24,3) 1\nb.png (24,24,3) 1\nc.png (24,24,3) 1\n")
    with pytest.raises(
        UsageError, match=r"GT\.lmdb is an LMDB database; pip install 'vimzoo\[lmdb\]' installs"
    ):
        degraded_folder(str(base), sigma=5)
