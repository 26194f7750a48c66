"""``data.labels``: classes and splits from a CSV file."""

from typing import Any

import pytest
from trainer_helpers import make_images

from vimzoo.data import image_folder
from vimzoo.errors import UsageError


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "pictures", {"a": 12, "b": 12})


def opened(root, *lines, **options):
    (root.parent / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return image_folder(str(root), labels=str(root.parent / "labels.csv"), img_size=16, **options)


def test_labels_need_no_folders(root: Any) -> None:
    rows = [f"{folder}/{i}.jpg,{'odd' if i % 2 else 'even, or none'}" for folder in "ab" for i in range(11)]
    rows = [row if row.endswith("odd") else row.replace(",", ',"', 1) + '"' for row in rows]
    data = opened(root, "file,label", *rows)
    assert data.classes == ("even, or none", "odd") and len(data.train) + len(data.val) + len(data.test) == 22
    for part in (data.train.images, data.val, data.test):
        assert [int(path.stem) % 2 for path in part.files()] == [part[i][1] for i in range(len(part))]
    assert "2 pictures of" in data.notes[1] and "are not listed in labels.csv" in data.notes[1]


def test_labels_may_tell_the_split(root: Any) -> None:
    rows = [
        f"{'Training' if i < 6 else 'test'},{folder}/{i}.jpg,{i % 2}" for folder in "ab" for i in range(12)
    ]
    data = opened(root, "split,file,label", *rows)
    assert len(data.train) + len(data.val) == 12 and len(data.val) > 0 and len(data.test) == 12
    rows = [row.replace("Training", "train").replace("test", "val") for row in rows]
    data = opened(root, "split,file,label", *rows)
    assert (len(data.train), len(data.val), data.test) == (12, 12, None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["name,label", "a/0.jpg,x"],
            r"no column file in its first line \(name, label\); expected file, label, split",
        ),
        (["file,label", "a/0.jpg,x", "a/99.jpg,y"], r"line 3: no file .*a/99.jpg"),
        (["file,label", "a/0.jpg,x", "./a/0.jpg,y"], r"line 3: ./a/0.jpg is listed a second time"),
        (["file,label", "a/0.jpg,"], r"line 2: expected a file and a label, got 'a/0.jpg' and ''"),
        (["file,label,split", "a/0.jpg,x,hold"], r"line 2: split 'hold'; expected one of train, val, test"),
        (["file,label,split", "a/0.jpg,x,train", "a/1.jpg,x,"], r"each with a split or none with one"),
        (["file,label,split", "a/0.jpg,x,train", "a/1.jpg,y,train", "b/1.jpg,z,val"], r"training lacks: z"),
        (["file,label", "a/0.jpg,x", "a/1.jpg,x"], r"has one class \(x\)"),
    ],
)
def test_wrong_lists_are_named(root: Any, lines: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(root, *lines)
