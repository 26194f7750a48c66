"""Which files become which, and runs that no file stops."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vimzoo.restoration import Restorer, find_jobs, read_picture, restore_files, stream


def photo(path: Path, height: int = 8, width: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", "deep/d.tiff", ".hidden/e.png", "deep/.f.png"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "folder.png").mkdir()
    return tmp_path / "in"


def names(jobs: list, base: Path) -> list[tuple[str, str]]:
    return [(str(job.source.relative_to(base)), str(job.target.relative_to(base))) for job in jobs]


def test_a_folder_becomes_a_folder_of_the_same_tree(tree: Path) -> None:
    base = tree.parent
    assert names(find_jobs(tree, base / "out"), base) == [
        ("in/a.PNG", "out/a.PNG"), ("in/b.jpg", "out/b.jpg"), ("in/deep/d.tiff", "out/deep/d.tiff"),
        ("in/deep/er/c.webp", "out/deep/er/c.webp"),
    ]  # fmt: skip
    assert {job.target.suffix for job in find_jobs(tree, base / "out", ".png")} == {".png"}


def test_results_inside_the_input_are_not_taken_again(tree: Path) -> None:
    photo(tree / "out" / "a.png")
    assert not [job for job in find_jobs(tree, tree / "out") if "out" in job.source.relative_to(tree).parts]


def test_the_input_may_lie_in_the_output(tree: Path) -> None:
    jobs = find_jobs(tree, tree.parent)
    assert names(jobs, tree.parent)[:2] == [("in/a.PNG", "a.PNG"), ("in/b.jpg", "b.jpg")] and len(jobs) == 4
    photo(tree / "in" / "b.jpg")
    with pytest.raises(ValueError, match=r"in/b\.jpg: the result would replace a picture"):
        find_jobs(tree, tree.parent)


def test_links(tree: Path) -> None:
    """Of files, of folders, in circles, to nowhere; a pipe is no picture."""
    base = tree.parent
    photo(base / "elsewhere" / "photo.png")
    for name, leads in (
        ("file.png", base / "elsewhere/photo.png"), ("folder", base / "elsewhere"), ("up", base),
        ("circle.png", tree / "circle.png"), ("nowhere.png", base / "missing.png"),
    ):  # fmt: skip
        (tree / name).symlink_to(leads)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tree / "pipe.png")
    found = {job.source.name for job in find_jobs(tree, base / "out")}
    assert found == {"a.PNG", "b.jpg", "c.webp", "d.tiff", "file.png", "circle.png", "nowhere.png"}


def test_a_folder_that_cannot_be_listed_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    closed = "er"
    found = [job.source.name for job in find_jobs(tree, tree.parent / "out")]
    assert found == ["a.PNG", "b.jpg", "d.tiff", "er"]
    closed = "in"
    with pytest.raises(ValueError, match=r"in: cannot be listed \(Permission denied\)"):
        find_jobs(tree, tree.parent / "out")


def test_a_file_becomes_a_file_or_goes_into_a_folder(tree: Path) -> None:
    base, source = tree.parent, tree / "b.jpg"
    (base / "there").mkdir()
    assert names(find_jobs(source, base / "x.png"), base) == [("in/b.jpg", "x.png")]
    assert names(find_jobs(source, base / "there"), base) == [("in/b.jpg", "there/b.jpg")]
    assert names(find_jobs(source, base / "new"), base) == [("in/b.jpg", "new/b.jpg")]
    assert names(find_jobs(source, base / "new", ".webp"), base) == [("in/b.jpg", "new/b.webp")]


@pytest.mark.parametrize(
    ("source", "target", "suffix", "says"),
    (
        ("missing.png", "x.png", None, "no such file or folder"),
        ("in", "in", None, "would replace"),
        ("in/b.jpg", "in/b.jpg", None, "would replace"),
        ("in/b.jpg", "x.gif", None, "expected a folder, or a file ending in"),
        ("in/b.jpg", "x.png", ".jpg", "another format"),
        ("in", "in/b.jpg", None, "expected a folder"),
        ("in/folder.png", "out", None, "no pictures"),
        ("in", "out", ".gif", "suffix"),
        ("twins", "out", ".png", "would both become"),
    ),
)
def test_impossible_requests_are_refused(
    tree: Path, source: str, target: str, suffix: str, says: str
) -> None:
    base = tree.parent
    photo(base / "twins" / "a.jpg")
    photo(base / "twins" / "a.webp")
    with pytest.raises(ValueError, match=says):
        find_jobs(base / source, base / target, suffix)


def test_no_file_stops_the_folder(small, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "broken.png").write_bytes((tree / "a.PNG").read_bytes()[:60])
    (tree / "empty.jpg").touch()
    Image.new("RGBA", (4, 4), (1, 2, 3, 4)).save(tree / "alpha.png")
    (tree / "alpha.png").rename(tree / "alpha.jpg")  # alpha cannot be written under this name
    out = tree.parent / "out"
    report = restore_files(find_jobs(tree, out), Restorer(small("light_x2")), quiet=True)
    assert len(report.restored) == 4 and not report.skipped
    reasons = {job.source.name: reason for job, reason in report.failed}
    assert set(reasons) == {"broken.png", "empty.jpg", "alpha.jpg"} and "alpha" in reasons["alpha.jpg"]
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.PNG", "b.jpg", "c.webp", "d.tiff"]
    for job in report.restored:
        assert read_picture(job.target).pixels.shape == (16, 20, 3)


def test_a_model_that_fails_leaves_nothing_behind(small, tree: Path) -> None:
    model = small("light_x2")
    with torch.no_grad():
        model.conv_first.weight.fill_(3e38)
    out = tree.parent / "out"
    report = restore_files(find_jobs(tree, out), Restorer(model), quiet=True)
    assert len(report.failed) == 4 and "NaN" in report.failed[0][1]
    assert not [p for p in out.rglob("*") if p.is_file()]


def test_a_name_that_becomes_too_long_fails_alone(small, tree: Path) -> None:
    """Of a format that is only read, whose result has a longer name."""
    Image.new("RGB", (4, 4)).save(tree / f"{'a' * 250}.bmp")
    report = restore_files(find_jobs(tree, tree.parent / "out"), Restorer(small("light_x2")), quiet=True)
    assert len(report.restored) == 4
    assert [reason for _, reason in report.failed] == ["File name too long"]


def test_results_that_exist_are_skipped_or_overwritten(small, tree: Path) -> None:
    out = tree.parent / "out"
    jobs = find_jobs(tree, out)
    out.mkdir()
    (out / "b.jpg").write_text("precious")
    restore = Restorer(small("light_x2"))
    report = restore_files(jobs, restore, quiet=True)
    assert [job.source.name for job in report.skipped] == ["b.jpg"] and len(report.restored) == 3
    assert (out / "b.jpg").read_text() == "precious"
    assert len(restore_files(jobs, restore, existing="overwrite", quiet=True).restored) == 4
    assert read_picture(out / "b.jpg").pixels.shape == (16, 20, 3)
    with pytest.raises(ValueError, match="existing"):
        restore_files(jobs, restore, existing="ask")


def test_the_bar_counts_pixels_and_says_how_long(
    small, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tree / "large.png", 40, 50)
    (tree / "broken.png").write_text("not a picture")
    restore_files(find_jobs(tree, tree.parent / "out"), Restorer(small("light_x2"), tile=16))
    shown = capsys.readouterr().err
    assert "2.32k/2.32k" in shown  # 4 x 80 + 2000, and 1 for the broken one
    assert "<00:00" in shown and "100%" in shown
    assert shown.count("failed: ") == 1 and "broken.png" in shown


def test_a_result_too_large_for_the_memory_is_refused(
    small, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(stream, "SMALL", 0)
    report = restore_files(
        find_jobs(tree, tree.parent / "out"), Restorer(small("light_x2"), tile=16), quiet=True
    )
    assert len(report.failed) == 4 and "result of 20 x 16 pixels" in report.failed[0][1]


def test_where_nothing_can_be_written_no_work_is_done(
    small, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tree.parent / "out"
    (out / "a.PNG").mkdir(parents=True)
    (out / "deep").write_text("a file where a folder is needed")
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: denied() if dir == out else real(dir=dir))

    def denied() -> None:
        raise OSError(30, "Read-only file system")

    def work(*_: object) -> None:
        raise AssertionError("work was done in vain")

    monkeypatch.setattr(Restorer, "run", work)
    report = restore_files(find_jobs(tree, out), Restorer(small("light_x2")), quiet=True)
    assert [reason.removeprefix(str(out)) for _, reason in report.failed] == [
        "/a.PNG: there is a folder of this name",
        ": cannot be written (Read-only file system)",
        "/deep: cannot be written (File exists)",
        "/deep/er: cannot be written (Not a directory)",
    ]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_reason(small, tree: Path) -> None:
    out = tree.parent / "out"
    out.mkdir(mode=0o500)
    report = restore_files(find_jobs(tree, out), Restorer(small("light_x2")), quiet=True)
    assert {reason for _, reason in report.failed} == {f"{out}: cannot be written (Permission denied)"}


def test_what_is_left_out_is_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "notes.txt").unlink()
    find_jobs(tree, tree.with_name("out"))
    assert not caplog.messages
    for name in ("a.xcf", "b.xcf", "c.ORF", "d", ".x.psd"):
        (tree / name).write_bytes(b"x")
    find_jobs(tree, tree.with_name("out"))
    (said,) = caplog.messages
    assert "left out: " in said and ".xcf 2, .orf 1, without suffix 1" in said and ".psd" not in said
