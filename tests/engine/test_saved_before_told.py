"""What a run says, and to whom, never costs what it has done."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_helpers import small

from vimzoo.engine import launch
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.reports import report
from vimzoo.engine.reports import track as track_module
from vimzoo.engine.reports.output import Patient, patient
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def without_reader():
    """A stream into a pipe whose reader is gone, as of ``| head`` or a dead ``tee``."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def without_room():
    """A stream onto a full disk."""
    return os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a file that is always full")
@pytest.mark.parametrize("broken", [without_reader, without_room])
def test_a_run_goes_on_without_output(broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, real = io.StringIO(), sys.stderr
    with broken() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", said)
        launch(small("run.epochs=2"), tmp_path)
        assert sys.stdout is stream
        monkeypatch.setattr(sys, "stderr", real)
    assert checkpoint.read(tmp_path / "last.pt")["epoch"] == 2 and (tmp_path / "metrics.json").exists()
    assert said.getvalue().count("output cannot be written") == 1


def fail(*_):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    "place", [(report, "write_csv"), (report, "epoch_line"), (track_module.Tracker, "epoch")]
)
def test_an_epoch_is_saved_before_it_is_told(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*place, fail)
    with pytest.raises(OSError, match="Input/output error"):
        launch(small(), tmp_path)
    assert checkpoint.read(tmp_path / "last.pt")["epoch"] == 1 and (tmp_path / "best.pt").exists()


def test_too_many_unreadable_images_stop_a_run_that_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many(*_):
        raise UsageError("9 of 10 images cannot be read")

    monkeypatch.setattr(report, "unreadable", too_many)
    with pytest.raises(UsageError, match=r"9 of 10 images cannot be read; the run is saved in .*last.pt"):
        launch(small(), tmp_path)
    assert checkpoint.read(tmp_path / "last.pt")["epoch"] == 1


def test_text_that_the_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "ascii")
    assert Patient(stream).encoding == "ascii"
    print("caf\u00e9 \udcff", file=Patient(stream), flush=True)
    assert written.getvalue().split() == [b"caf\\xe9", b"\\udcff"]


def test_the_interpreters_last_flush_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would try again what has failed, and change the exit status."""
    with without_reader() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with patient():
            print("lost", flush=True)
        print("to nowhere", flush=True)
        monkeypatch.undo()
