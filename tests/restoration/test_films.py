"""Films through the command's own steps: what must be the same afterwards, interruptions, damage, refusals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from film_models import Same, Stops

av = pytest.importorskip("av", reason="needs the extra vimzoo[films]")

from film_files import (  # noqa: E402
    BT601,
    BT709,
    EVEN,
    EVERYTHING,
    FIELDS,
    LATE,
    LOSSLESS,
    MIRRORED,
    SMALL,
    TURNED,
    UNIT,
    VARIABLE,
    WITH_ALPHA,
    film,
    held,
    planes,
    restore,
)

from vimzoo.compat import mambair  # noqa: E402
from vimzoo.errors import Failure, UsageError  # noqa: E402
from vimzoo.film.layout import Layout  # noqa: E402
from vimzoo.restoration import Restorer  # noqa: E402
from vimzoo.restoration.film import FilmRequest  # noqa: E402
from vimzoo.restore import main  # noqa: E402

KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "variable rate": ("a.mp4", LATE | dict(tags=BT709), LOSSLESS),
    "B-frames in Matroska": ("a.mkv", LATE | dict(options={"crf": "0", "bf": "2"}), LOSSLESS),
    "full range": ("a.mp4", dict(tags=BT709 | {"color_range": 2}), LOSSLESS),
    "601": ("a.mkv", dict(tags=BT601), LOSSLESS),
    "10 bits": ("a.mkv", dict(pix_fmt="yuv420p10le", tags=BT709, size=(64, 64)), dict(encoder="ffv1")),
    "10 bits 4:2:2": ("a.mkv", dict(codec="ffv1", pix_fmt="yuv422p10le", options={}), dict(encoder="ffv1")),
    "HDR10 in MP4": ("a.mp4", SMALL, {}),
    "HDR10 in Matroska": ("a.mkv", SMALL, {}),
    "turned": ("a.mp4", dict(matrix=TURNED), LOSSLESS),
    "mirrored": ("a.mkv", dict(matrix=MIRRORED), LOSSLESS),
    "wide pixels": ("a.mp4", dict(aspect=Fraction(16, 11)), LOSSLESS),
    "top field first": ("a.mp4", dict(options=FIELDS | {"x264-params": "tff=1"}, field_order=2), LOSSLESS),
    "bottom field first": ("a.mkv", dict(options=FIELDS | {"x264-params": "bff=1"}, field_order=3), LOSSLESS),
    "odd size": ("a.mkv", dict(codec="ffv1", size=(47, 31), options={}), dict(encoder="ffv1")),
    "odd size, AV1": ("a.mp4", dict(codec="libsvtav1", size=(67, 65), options={"crf": "9"}), {}),
    "two sound tracks": ("a.mp4", EVERYTHING | dict(subtitles="mov_text"), LOSSLESS),
    "two sound tracks in Matroska": ("a.mkv", EVERYTHING | dict(subtitles="subrip", font=True), LOSSLESS),
    "edit list": ("a.mp4", dict(hidden=3, options={"crf": "0", "bf": "0"}), LOSSLESS),
    "transparency, VP9": ("a.webm", WITH_ALPHA, {}),
    "transparency, RGB": ("a.mov", dict(codec="qtrle", pix_fmt="argb", options={}), {}),
    "grey": ("a.mkv", dict(codec="ffv1", pix_fmt="gray", options={}), {}),
    "RGB": ("a.mkv", dict(codec="ffv1", pix_fmt="gbrp10le", options={}), {}),
}  # fmt: skip
LOSSY = ("HDR10 in MP4", "HDR10 in Matroska", "odd size, AV1", "transparency, VP9")
MORE = {"grey": {"6 fields": 0}}


@pytest.mark.parametrize("kind", KINDS)
def test_ten_checks(kind: str, tmp_path: Path, same: Restorer, capfd) -> None:
    """Through a network that changes nothing; see `held` for the checks."""
    name, made, options = KINDS[kind]
    source, target = film(tmp_path / name, **made), tmp_path / f"out{Path(name).suffix}"
    capfd.readouterr()
    report = restore(source, target, same, **options)
    assert capfd.readouterr() == ("", "")  # encoders like to talk
    before, after = held(source), held(target)
    assert before["1 frames"] == report.frames == len(EVEN) and report.damage == []
    assert {path.name for path in tmp_path.iterdir()} == {name, target.name}
    assert before == after
    errors = [
        np.abs(x.astype(int) - y.astype(int)).mean()
        for one, other in zip(planes(source), planes(target), strict=True)
        for x, y in zip(one, other, strict=True)
    ]
    assert max(errors) == 0 if kind not in LOSSY else max(errors) < 6


COLOURS = [
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 1, 1),
    (0, 0, 0),
    (0.5, 0.5, 0.5),
    (1, 0.5, 0),
    (0.2, 0.8, 0.6),
]
SHARES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def coded(colour: tuple[float, ...], matrix: int, bits: int, full: bool) -> list[float]:
    """Y, U and V by the standards' formulas."""
    red, blue = SHARES[matrix]
    r, g, b = colour
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if full:
        top = 2**bits - 1
        return [min(x, top) for x in (y * top, u * top + 2 ** (bits - 1), v * top + 2 ** (bits - 1))]
    return [(219 * y + 16) * 2 ** (bits - 8), *((224 * x + 128) * 2 ** (bits - 8) for x in (u, v))]


@pytest.mark.parametrize("scale", (1, 2))
@pytest.mark.parametrize("pix_fmt", ("yuv420p", "yuv420p10le"))
@pytest.mark.parametrize(("matrix", "full"), [(1, False), (1, True), (6, False), (9, False), (9, True)])
def test_colours(scale: int, pix_fmt: str, matrix: int, full: bool, tmp_path: Path) -> None:
    """One known colour per frame, read by the tags in the result, at most 2 of 255 off."""
    bits = 10 if "10" in pix_fmt else 8

    def pictures(number: int, layout: Layout, height: int, width: int) -> list[torch.Tensor]:
        values = coded(COLOURS[number], matrix, bits, full)
        sizes = layout.sizes(height, width)
        return [torch.full(size, float(round(x))) for size, x in zip(sizes, values, strict=True)]

    tags = dict(color_range=1 + full, colorspace=matrix, color_primaries=matrix, color_trc=matrix)
    source = film(tmp_path / "a.mkv", codec="ffv1", pix_fmt=pix_fmt, options={}, tags=tags, pictures=pictures)
    restore(source, tmp_path / "b.mkv", Restorer(Same(scale)), encoder="ffv1")
    after = held(tmp_path / "b.mkv")
    assert after["3 colours"] == [1 + full, matrix, matrix, matrix] and after["4 format"] == pix_fmt
    step = 2 ** (bits - 8)
    for colour, found in zip(COLOURS, planes(tmp_path / "b.mkv"), strict=True):
        assert found[0].shape == (32 * scale, 48 * scale)
        for plane, value in zip(found, coded(colour, matrix, bits, full), strict=True):
            assert np.abs(plane - value).max() <= step


def test_some_frames(tmp_path: Path, same: Restorer, short_parts: None) -> None:
    """An excerpt starts at 0, with the sound of its time."""
    source = film(tmp_path / "a.mp4", **LATE, **EVERYTHING)
    restore(source, tmp_path / "b.mp4", same, frames=(3, 7), crf=0)
    before, after = held(source), held(tmp_path / "b.mp4")
    times = [(VARIABLE[i] - VARIABLE[3]) * float(UNIT) for i in range(3, 7)]
    assert after["2 times"] == pytest.approx(times) and after["2 end"] == pytest.approx(3250 * float(UNIT))
    assert all(
        np.array_equal(x, y) for x, y in zip(planes(source)[3], planes(tmp_path / "b.mp4")[0], strict=True)
    )
    assert after["8 streams"][:2] == before["8 streams"][:2] and after["10 chapters"] == []
    sound = [packet[3] for packet in before["9 packets"] if 1750 / 12_000 <= packet[1] < 5000 / 12_000]
    assert [packet[3] for packet in after["9 packets"]] == sound
    restore(source, tmp_path / "c.mp4", same, frames=(6, None))
    assert held(tmp_path / "c.mp4")["1 frames"] == 2
    with pytest.raises(UsageError, match=r"--frames 8: .*a\.mp4 has 8 frames"):
        FilmRequest(source, tmp_path / "d.mp4", frames=(8, None))


def test_preview(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mkv", codec="ffv1", options={})
    restore(source, tmp_path / "b.mkv", Restorer(Same(2)), encoder="ffv1", preview=True)
    for before, after in zip(planes(source), planes(tmp_path / "b.mkv"), strict=True):
        assert after[0].shape == (64, 192)
        enlarged = before[0].repeat(2, 0).repeat(2, 1)
        assert np.abs(after[0][:, 96:].astype(int) - enlarged).max() <= 1
        assert 1 < np.abs(after[0][:, :96].astype(int) - enlarged).mean() < 40


def test_covers_and_other_pictures_are_copied(tmp_path: Path, same: Restorer, caplog) -> None:
    source = film(tmp_path / "a.mp4", cover=True)
    for name in ("b.mp4", "c.mkv"):
        restore(source, tmp_path / name, same, crf=0)
        before, after = held(source), held(tmp_path / name)
        kinds = [[(stream[:2], stream[3]) for stream in each["8 streams"]] for each in (before, after)]
        assert sorted(kinds[0]) == sorted(kinds[1]) and len(kinds[0]) == 2
        with av.open(str(tmp_path / name)) as one, av.open(str(source)) as other:
            found = [
                sorted(
                    bytes(p)
                    for p in container.demux(*container.streams.video)
                    if p.size and p.stream.codec.name == "mjpeg"
                )
                for container in (one, other)
            ]
        assert found[0] == found[1] and len(found[0]) == 2
    assert "a.mp4: video stream 1 (mjpeg, und) is copied as it is" in caplog.text


def test_transport_streams_start_at_zero(tmp_path: Path, same: Restorer) -> None:
    source = film(tmp_path / "a.ts", times=[120_000 + pts for pts in EVEN])
    assert held(source)["2 times"][0] >= 10
    restore(source, tmp_path / "b.mp4", same, crf=0)
    after = held(tmp_path / "b.mp4")["2 times"]
    assert after == pytest.approx([pts * float(UNIT) for pts in EVEN], abs=1e-4)


def test_subtitles_of_mp4_become_subrip(tmp_path: Path, same: Restorer) -> None:
    source = film(tmp_path / "a.mp4", subtitles="mov_text")
    restore(source, tmp_path / "b.mkv", same)
    after = held(tmp_path / "b.mkv")
    assert [(packet[1], packet[3]) for packet in after["9 packets"]] == [
        (0.02, b"Guten Tag"),
        (0.2, b"Adieu"),
    ]
    assert after["8 streams"] == [
        ("subtitle", "srt", {"language": "ger", "title": None, "filename": None, "mimetype": None}, 0x41)
    ]


def damaged(source: Path, target: Path) -> Path:
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat")
    for place in range(start + 1600, start + 1640):
        content[place] ^= 0x55
    target.write_bytes(content)
    return target


def test_damage_is_named(tmp_path: Path, same: Restorer) -> None:
    source = film(tmp_path / "a.mp4", options={"crf": "10", "bf": "0", "g": "4"}, times=range(0, 12_000, 500))
    assert restore(source, tmp_path / "b.mp4", same).damage == []
    report = restore(damaged(source, tmp_path / "c.mp4"), tmp_path / "d.mp4", same)
    assert report.frames == 24 and len(report.damage) == 1
    assert report.damage[0].startswith("frame")


def test_a_film_that_was_cut(tmp_path: Path, same: Restorer) -> None:
    source = film(tmp_path / "a.mkv", times=range(0, 48_000, 2000))
    content = source.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    report = restore(tmp_path / "cut.mkv", tmp_path / "b.mkv", same)
    assert 4 < report.frames < 20
    assert any("before the end that the file states" in text for text in report.damage)
    index_last = film(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(index_last[: len(index_last) // 2])
    with pytest.raises(UsageError, match=r"cut\.mp4: cannot be opened as a film \("):
        FilmRequest(tmp_path / "cut.mp4", tmp_path / "c.mp4")


def test_refusals_before_any_work(tmp_path: Path, same: Restorer, caplog) -> None:
    source = film(tmp_path / "a.mkv", subtitles="subrip", font=True)
    clear = film(tmp_path / "clear.mov", codec="qtrle", pix_fmt="argb", options={})
    (tmp_path / "words.mp4").write_text("not a film")
    for message, path, name, options in (
        (r"b\.gif: expected a name ending in \.mp4, \.m4v", source, "b.gif", {}),
        (r"--encoder libx246: unknown; similar names: libx264", source, "b.mp4", dict(encoder="libx246")),
        (r"--crf 64: expected 0 to 51 for libx264", source, "b.mkv", dict(encoder="libx264", crf=64)),
        (r"--crf: ffv1 has no such option", source, "b.mkv", dict(encoder="ffv1", crf=3)),
        (r"words\.mp4: cannot be opened as a film", tmp_path / "words.mp4", "b.mp4", {}),
        (r"none\.mp4: cannot be opened as a film .*No such file", tmp_path / "none.mp4", "b.mp4", {}),
        (r"a\.mkv: the result would replace the film", source, "a.mkv", {}),
        (r"48 x 32 pixels; expected at most 1000", source, "b.mkv", dict(max_pixels=1000)),
        (
            r"--encoder ffv1: expected a name ending in \.mkv, got \.mp4",
            source,
            "b.mp4",
            dict(encoder="ffv1"),
        ),
        (r"subtitle stream 1 \(srt, ger\) does not fit into \.mp4", source, "b.mp4", {}),
        (
            r"--encoder libx264: does not keep the film's transparency",
            clear,
            "b.mov",
            dict(encoder="libx264"),
        ),
        (r"no encoder fits: libx264: does not keep the film's transparency in", clear, "b.mp4", {}),
        (r"film with --hwaccel nonsense \(", source, "b.mkv", dict(hwaccel="nonsense")),
        (r"hevc_nvenc: cannot write the result \(", source, "b.mkv", dict(encoder="hevc_nvenc")),
    ):
        with pytest.raises(UsageError, match=message):
            restore(path, tmp_path / name, same, **options)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"a.mkv", "clear.mov", "words.mp4"}
    plain = film(tmp_path / "plain.mkv", font=True)
    restore(plain, tmp_path / "plain.mp4", same)
    assert "left out: attachment stream 1" in caplog.text
    deep = film(tmp_path / "deep.mkv", codec="ffv1", pix_fmt="yuv444p12le", options={})
    restore(deep, tmp_path / "d.mp4", same, encoder="libsvtav1")
    assert "deep.mkv: libsvtav1 does not keep 2 of 12 bits, all of the colours' sharpness" in caplog.text


def test_a_change_of_size_is_not_hidden(tmp_path: Path, same: Restorer) -> None:
    parts = [film(tmp_path / f"{width}.ts", size=(width, 32)) for width in (48, 64)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(path.read_bytes() for path in parts))
    with pytest.raises(Failure, match=r"frame 8 is of 64 x 32 yuv420p; expected 48 x 32 yuv420p as before"):
        restore(joined, tmp_path / "out.mp4", same)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, short_parts: None) -> None:
    monkeypatch.chdir(tmp_path)
    film(Path("a.mp4"), **EVERYTHING)
    film(tmp_path / "talk: 1.mp4")
    light = mambair.official_state_dict(timm.create_model("test_mambair"))
    torch.save({"params": light}, "x2.pth")
    words = ["a.mp4", "b.mp4", "--checkpoint", "x2.pth"]
    assert main([*words, "--crf", "10", "--frames", ":4"]) == 0
    out, err = capsys.readouterr()
    assert out == "4 frames restored\n" and "4/4" in err and "frame" in err
    assert held(Path("b.mp4"))["1 frames"] == 4 and planes(Path("b.mp4"))[0][0].shape == (64, 96)
    assert main(words) == 0 and "the result exists" in capsys.readouterr().out
    assert main([*words, "--existing", "overwrite", "--quiet"]) == 0
    assert capsys.readouterr() == ("8 frames restored\n", "")
    assert main(["talk: 1.mp4", "talk: 2.mp4", *words[2:], "--quiet"]) == 0
    assert held(tmp_path / "talk: 2.mp4")["1 frames"] == 8 and capsys.readouterr().out
    for more, message in (
        (["--quality", "3"], "--quality: is an option for pictures, got a.mp4"),
        (["--pages", "all"], "--pages: is an option for pictures"),
        (["--frames", "9:3"], "expected at least one frame"),
        (["--frames", "x"], "expected FIRST:STOP, such as 10:20, got 'x'"),
    ):
        try:
            status: Any = main([*words, *more])
        except SystemExit as ended:
            status = ended.code
        assert status == 2 and message in capsys.readouterr().err
    monkeypatch.setattr("vimzoo.restore._restorer", lambda options: Restorer(Stops(5)))
    assert main(["a.mp4", "c.mp4", "--checkpoint", "x2.pth", "--quiet"]) == 1
    assert "failed: a.mp4: stopped here; finished parts are kept" in capsys.readouterr().err
    monkeypatch.setattr("vimzoo.restore._restorer", lambda options: Restorer(Stops(99)))
    assert main(["a.mp4", "c.mp4", "--checkpoint", "x2.pth", "--quiet"]) == 0
    assert capsys.readouterr().out == "8 frames restored, 3 of them in an earlier run\n"
    Path("photo.png").write_bytes(b"")
    assert main(["photo.png", "b.png", "--checkpoint", "x2.pth", "--preview"]) == 2
    assert "--preview: is an option for films, got photo.png" in capsys.readouterr().err
