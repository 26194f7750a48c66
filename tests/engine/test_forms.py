"""Checkpoints are files or folders of parts; which of them a run goes on from, and which are kept."""

import os
from pathlib import Path
from typing import Any

import pytest

from vimzoo.engine.checkpoints import checkpoint, lookup, sharded

LASTS, BEFORE = ("last.pt", "last.dcp"), ("previous.pt", "previous.dcp")


def write(path, step):
    """A checkpoint without weights, of which only the step is read here."""
    content = {"model": {}, "epoch": 0, "step": step, "config": {"step": step}}
    if path.suffix == ".pt":
        checkpoint.write(content, path)
    else:
        temporary = path.with_suffix(".tmp")
        temporary.mkdir()
        checkpoint.write(content, temporary / sharded.PROGRESS)
        checkpoint.give_name(temporary, path)


def put(folder, **steps):
    """Checkpoints as runs before left them; ``last_dcp=3`` is last.dcp of step 3."""
    folder.mkdir(exist_ok=True)
    for number, (name, step) in enumerate(steps.items()):
        path = folder / name.replace("_", ".")
        (folder / "new").mkdir(exist_ok=True)
        write(folder / "new" / path.name, step)
        (folder / "new" / path.name).rename(path)
        for part in [path, *path.glob("*")]:
            os.utime(part, (1000 + number,) * 2)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()} & {*LASTS, *BEFORE}


def first(folder):
    return [path.name for path in lookup.newest_first(folder)]


@pytest.mark.parametrize(("last", "other"), [LASTS, LASTS[::-1]])
def test_a_new_checkpoint_replaces_older_ones_of_either_form(last: Any, other: Any, tmp_path: Path) -> None:
    old, new = (checkpoint.PREVIOUS[name] for name in (other, last))
    for step, left in enumerate([{other}, {other, old}], start=1):
        write(tmp_path / other, step)
        assert names(tmp_path) == left
    write(tmp_path / last, 3)
    assert names(tmp_path) == {last, old} and first(tmp_path) == [last, old]
    write(tmp_path / last, 4)
    assert names(tmp_path) == {last, new}
    assert lookup.configuration(tmp_path / last) == {"step": 4}


def test_the_newest_is_first_whatever_its_form(tmp_path: Path) -> None:
    """As runs of earlier versions left them, or one that was killed while it changed the form."""
    assert first(put(tmp_path / "a", last_dcp=6, last_pt=3, previous_dcp=5)) == [
        "last.dcp", "previous.dcp", "last.pt",
    ]  # fmt: skip
    assert first(put(tmp_path / "b", last_pt=6, last_dcp=3)) == ["last.pt", "last.dcp"]
    assert first(put(tmp_path / "c", previous_pt=3, previous_dcp=4)) == ["previous.dcp", "previous.pt"]
    assert first(put(tmp_path / "d", previous_pt=9, last_pt=4)) == [
        "last.pt",
        "previous.pt",
    ]  # it had gone back
    (tmp_path / "b/last.pt").write_bytes(b"")
    os.utime(tmp_path / "b/last.pt", (2000, 2000))
    assert first(tmp_path / "b") == ["last.pt", "last.dcp"]  # by time, where a step cannot be read


def test_a_damaged_one_falls_back_on_the_newest_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, previous_pt=2, previous_dcp=3, last_pt=4)
    (tmp_path / "last.pt").write_bytes(b"")
    assert lookup.wanted("auto", tmp_path) == tmp_path / "last.pt"
    assert lookup.configuration(tmp_path / "last.pt") == {"step": 3}
    assert "last.pt: not a readable checkpoint" in (said := capsys.readouterr().err)
    assert f"resuming from {tmp_path / 'previous.dcp'}, step 3" in said
    checkpoint.remove(tmp_path / "previous.dcp")
    assert lookup.configuration(tmp_path / "last.dcp") == {"step": 2}  # asked for by name, and replaced since
    (tmp_path / "previous.pt").unlink()
    with pytest.raises(checkpoint.Unreadable, match=r"last.pt: not a readable checkpoint"):
        lookup.configuration(tmp_path / "last.pt")
