"""Films in closed parts: a killed run goes on, parts in any order, several processes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from film_models import Same, Stops

av = pytest.importorskip("av", reason="needs the extra vimzoo[films]")

from film_files import EVERYTHING, LATE, LOSSLESS, SMALL, WITH_ALPHA, film, held, planes, restore  # noqa: E402

from vimzoo.errors import UsageError  # noqa: E402
from vimzoo.film.layout import Layout  # noqa: E402
from vimzoo.film.planes import planes_of  # noqa: E402
from vimzoo.restoration import Restorer  # noqa: E402
from vimzoo.restoration.film import FilmRequest, restore_film  # noqa: E402
from vimzoo.restore import main  # noqa: E402


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
@pytest.mark.parametrize(
    ("name", "made", "options"),
    [
        ("a.mp4", LATE | EVERYTHING, LOSSLESS),
        ("a.mkv", LATE, LOSSLESS),
        ("a.mkv", LATE | dict(codec="ffv1", options={}), dict(encoder="ffv1")),
        ("a.mp4", LATE | SMALL, {}),
        ("a.webm", LATE | WITH_ALPHA, {}),
    ],
    ids=("x264", "Matroska", "FFV1", "x265", "VP9"),
)
def test_a_killed_run_continues(
    name: str, made: dict[str, Any], options: dict[str, Any], tmp_path: Path, short_parts: None
) -> None:
    """Only the frames of the unfinished part are computed again, and the result is that of a run in one go."""
    source, suffix = film(tmp_path / name, **made), Path(name).suffix
    calls = 2 if suffix == ".webm" else 1  # colours and transparency
    target, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    if (child := os.fork()) == 0:
        restore(source, target, Restorer(Stops(5 * calls, kill=True)), **options)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]) and not target.exists()
    model = Stops(99)
    report = restore(source, target, Restorer(model), **options)
    assert (report.frames, report.resumed, 99 - model.left) == (8, 3, 5 * calls)
    restore(source, whole, Restorer(Same()), **options)
    assert held(target) == held(whole) == held(source)
    for one, other in zip(planes(target), planes(whole), strict=True):
        for x, y in zip(one, other, strict=True):  # x265 itself does not write the same bits each time
            assert (
                np.abs(x.astype(int) - y).mean() < 6
                if made.get("codec") == "libx265"
                else np.array_equal(x, y)
            )
    assert not list(tmp_path.glob(".*"))


def test_parts_of_other_weights_are_not_used(tmp_path: Path, short_parts: None) -> None:
    source, target = film(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with pytest.raises(RuntimeError, match="stopped here"):
        restore(source, target, Restorer(Stops(4)))
    other = Stops(99)
    with torch.no_grad():
        other.unused.fill_(1)
    with pytest.raises(UsageError, match=r"b\.mp4\.parts: .* with other weights; expected the same command"):
        restore(source, target, Restorer(other))
    with pytest.raises(UsageError, match="with other encoder; expected"):
        restore(source, target, Restorer(Stops(99)), crf=30)
    report = restore_film(FilmRequest(source, target), Restorer(other), overwrite=True, quiet=True)
    assert (report.frames, report.resumed) == (8, 0)


@pytest.mark.parametrize("name", ("a.mp4", "a.mkv"))  # Matroska does not tell the number of frames
def test_ranges_in_any_order(name: str, tmp_path: Path, short_parts: None) -> None:
    """As when this process repeats what a lost one had taken."""
    made = dict(options={"crf": "0", "bf": "0"}, times=range(0, 7000, 500))
    source, suffix = film(tmp_path / name, **made), Path(name).suffix
    asked: list = []

    def backwards(do: Callable, items: Iterable) -> Iterator:
        asked.extend(items)
        results = {item: do(item) for item in reversed(asked)}
        return (results[item] for item in asked)

    request = FilmRequest(source, tmp_path / f"b{suffix}", crf=0)
    report = restore_film(request, Restorer(Same()), quiet=True, shared=backwards)
    assert asked == [(0, 3), (3, 6), (6, 9), (9, 12), (12, None)]
    assert (report.frames, report.resumed) == (14, 0) and held(request.target) == held(source)
    for x, y in zip(planes(source), planes(request.target), strict=True):
        assert all(np.array_equal(*pair) for pair in zip(x, y, strict=True))
    request = FilmRequest(source, tmp_path / f"c{suffix}")
    with pytest.raises(RuntimeError, match="RuntimeError: stopped here"):
        restore_film(request, Restorer(Stops(4)), quiet=True, shared=backwards)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks this process")
def test_two_processes(tmp_path: Path, short_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each restores some parts, no frame twice; the result is that of one process."""
    monkeypatch.chdir(tmp_path)
    source = film(Path("a.mkv"), codec="ffv1", options={}, times=range(0, 7000, 500), **EVERYTHING)
    monkeypatch.setattr("vimzoo.restore._restorer", lambda options: Restorer(Same(2)))

    def noted(frame: Any, layout: Layout) -> list[torch.Tensor]:
        with open(f"restored{os.environ['RANK']}", "a") as file:
            print(frame.pts, file=file)
        time.sleep(0.03)
        return planes_of(frame, layout)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["a.mkv", "b.mkv", "--checkpoint", "none", "--encoder", "ffv1", "--quiet"]
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            status = 1
            try:
                settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
                os.environ.update(
                    {name: str(value) for name, value in settings.items()}, MASTER_ADDR="127.0.0.1"
                )
                monkeypatch.setattr("vimzoo.restoration.film_work.planes_of", noted)
                with open(f"said{rank}", "w") as said, contextlib.redirect_stdout(said):
                    status = main(words)
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert (Path("said0").read_text(), Path("said1").read_text()) == ("14 frames restored\n", "")
    restored = [Path(f"restored{rank}").read_text().split() for rank in range(2)]
    assert (
        min(map(len, restored)) >= 3 and len(set(restored[0] + restored[1])) == sum(map(len, restored)) == 14
    )
    restore(source, Path("c.mkv"), Restorer(Same(2)), encoder="ffv1")
    assert held(Path("b.mkv")) == held(Path("c.mkv"))
    for x, y in zip(planes(Path("b.mkv")), planes(Path("c.mkv")), strict=True):
        assert all(np.array_equal(*pair) for pair in zip(x, y, strict=True))
