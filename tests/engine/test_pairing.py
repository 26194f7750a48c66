"""Pairs by name: every convention of this field, and what cannot be told is refused by name."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from vimzoo.data import degraded_folder, paired_folder
from vimzoo.data.images.files import SUFFIXES
from vimzoo.data.pairs.folders import paired_files
from vimzoo.data.pairs.matching import matched
from vimzoo.errors import UsageError


def names(*texts: str) -> list[PurePosixPath]:
    return [PurePosixPath(text) for text in texts]


@pytest.mark.parametrize(
    ("low", "high"),
    (
        (("a.png", "b.png"), ("a.png", "b.jpg")),
        (("a.png", "a.jpg"), ("a.jpg", "a.png")),  # two pairs, told apart by their suffixes
        (("1x2.png", "10x2.png", "2x2.png"), ("1.png", "10.png", "2.png")),
        (("ax2.png", "ax2x2.png"), ("a.png", "ax2.png")),
        (("0801x4.png",), ("0801.png",)),
        (("X2/0801x2.png",), ("0801.png",)),
        (("DIV2K_train_LR_bicubic/X4/0001x4.png",), ("DIV2K_train_HR/0001.png",)),
        (("baby_LRBI_x2.png", "bird_LRBI_x2.png"), ("baby_HR_x2.png", "bird_HR_x2.png")),
        (("baby_LR.png",), ("baby_HR.png",)),
        (("img_001_SRF_2_LR.png",), ("img_001_SRF_2_HR.png",)),
        (("Canon_001_LR4.png",), ("Canon_001_HR.png",)),
        (("Set5/LR/a.png", "Set14/LR/a.png"), ("Set5/HR/a.png", "Set14/HR/a.png")),
        (("lr.png",), ("hr.jpg",)),
    ),
)
def test_conventions(low: tuple[str, ...], high: tuple[str, ...]) -> None:
    if low == ("lr.png",):
        with pytest.raises(UsageError, match=r"files without a partner \(2\): low/lr.png, high/hr.jpg"):
            matched(names(*low), names(*high))
        return
    order = {file: place for place, file in enumerate(names(*low))}
    pairs = matched(names(*reversed(low)), names(*high))
    assert [large for _, large in pairs] == names(*high)
    if low == ("a.png", "a.jpg"):
        assert [small for small, _ in pairs] == names(*high)
    else:
        assert [order[small] for small, _ in pairs] == list(range(len(low)))


@pytest.mark.parametrize(
    ("low", "high", "says"),
    (
        (("a.png",), ("a.png", "b.png"), r"files without a partner \(1\): high/b.png"),
        (("ax2.png", "c.png"), ("a.png", "b.png"), r"files without a partner \(2\): low/c.png, high/b.png"),
        (
            ("X2/ax2.png", "X4/ax4.png"),
            ("a.png",),
            "X2/ax2.png, X4/ax4.png have one name",
        ),
        (("a.png", "a.jpg"), ("a.png",), "a.png, a.jpg have one name"),
    ),
)
def test_what_cannot_be_told(low: tuple[str, ...], high: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        matched(names(*low), names(*high))


def picture(path: Path, height: int, width: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(height).randint(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_the_scale_is_that_of_a_pair(tmp_path: Path) -> None:
    """The first degraded file in order, 10x2, is not the partner of the first clean one, 1, which is larger."""
    for number in range(1, 11):
        height = 40 if number == 1 else 24
        picture(tmp_path / "high" / f"{number}.png", height)
        picture(tmp_path / "low" / f"{number}x2.png", height // 2, 12)
    low, high, scale = paired_files(tmp_path / "low", tmp_path / "high")
    assert scale == 2 and [small.stem.removesuffix("x2") for small in low] == [large.stem for large in high]


def test_linked_folders_are_read_and_hidden_files_are_not(tmp_path: Path) -> None:
    for kind in ("LQ", "GT"):
        picture(tmp_path / "real" / kind / "a.png", 24)
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "DIV2K").symlink_to(tmp_path / "real" / kind)
        picture(tmp_path / "set" / kind / "b.png", 24)
        (tmp_path / "set" / kind / "._b.png").write_bytes(b"of macOS")
    (tmp_path / "set" / "GT" / "notes.txt").write_text("")
    data = paired_folder(str(tmp_path / "set"), test_fraction=1, crop=16)
    assert [path.name for path in data.test.pairs.high] == ["a.png", "b.png"] and data.scale == 1
    suffixes = ", ".join(SUFFIXES[:4])
    assert [note.split(": ", 1)[1] for note in data.notes] == [
        "left out: 1 hidden files or folders",
        f"left out: 1 files that do not end in {suffixes}, ... (.txt 1) and 1 hidden files or folders",
    ]


def test_two_folders_that_may_be_meant(tmp_path: Path) -> None:
    for kind in ("low", "LQ", "high"):
        picture(tmp_path / kind / "a.png", 24)
    with pytest.raises(UsageError, match=r"LQ and .*low could both be meant"):
        paired_folder(str(tmp_path))


def test_a_list_chooses_images(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / "clean" / "sub" / f"{number}.png", 24)
    (tmp_path / "meta_info.txt").write_text("sub/1.png (24,24,3)\nsub/4.png (24,24,3) 1\n\nsub/5\n")
    words = dict(sigma=5, test_fraction=1, crop=16, meta_info=str(tmp_path / "meta_info.txt"))
    data = degraded_folder(str(tmp_path / "clean"), **words)
    assert [path.stem for path in data.test.pairs.high] == ["1", "4", "5"]
    (tmp_path / "meta_info.txt").write_text("sub/1.png\nsub/9.png\n")
    with pytest.raises(UsageError, match=r"1 of 2 names are not in .*: sub/9\.png"):
        degraded_folder(str(tmp_path / "clean"), **words)
    for content in ("", None):
        (tmp_path / "meta_info.txt").unlink() if content is None else (tmp_path / "meta_info.txt").write_text(
            content
        )
        with pytest.raises(UsageError, match=r"`meta_info`=.*(holds no names|cannot be read)"):
            degraded_folder(str(tmp_path / "clean"), **words)
