"""Colours, pixel formats, parts and damage of films: all that needs no PyAV."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from film_models import Same

from vimzoo.errors import UsageError
from vimzoo.film.colours import INTERLACED, WHOLE, colours_of, fields_of, from_rgb, stored, to_rgb
from vimzoo.film.damage import Damage
from vimzoo.film.layout import Layout, closest, loss
from vimzoo.film.segments import Segments
from vimzoo.restoration import Restorer
from vimzoo.restoration.frames import Frames
from vimzoo.restore import main

YUV420 = Layout("yuv420p", "yuv", 8, 2, 2, order=(0, 1, 2))
YUV422_10 = Layout("yuv422p10le", "yuv", 10, 2, 1, order=(0, 1, 2))
YUV444 = Layout("yuv444p", "yuv", 8, order=(0, 1, 2))
GBRP = Layout("gbrp", "rgb", 8, order=(2, 0, 1))
GREY = Layout("gray", "grey", 8, order=(0,))
ALPHA = Layout("yuva420p", "yuv", 8, 2, 2, True, (0, 1, 2, 3))
LIMITED, FULL = 1, 2


def solid(colour: tuple[float, ...], height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.tensor(colour)[:, None, None].expand(-1, height, width).contiguous()


@pytest.mark.parametrize(
    ("matrix", "bits", "full", "colour", "codes"),
    [
        (1, 8, LIMITED, (0, 1, 0), (173, 42, 26)),  # of BT.709's own tables
        (6, 8, LIMITED, (0, 1, 0), (145, 54, 34)),
        (9, 10, LIMITED, (0, 1, 0), (658, 189, 100)),
        (1, 10, LIMITED, (1, 0, 0), (250, 409, 960)),
        (1, 8, FULL, (1, 1, 1), (255, 128, 128)),
        (5, 8, FULL, (0, 0, 1), (29, 255, 107)),
        (9, 8, LIMITED, (0, 0, 0), (16, 128, 128)),
    ],
)
def test_code_values_of_known_colours(
    matrix: int, bits: int, full: int, colour: tuple[int, ...], codes: tuple[int, ...]
) -> None:
    layout = Layout("x", "yuv", bits, 2, 2, order=(0, 1, 2))
    colours = colours_of(layout, 8, 8, matrix, full)
    planes = stored(from_rgb(solid([float(x) for x in colour]), layout, colours), bits)
    assert [int(plane[0, 0]) for plane in planes] == list(codes)
    assert all((plane == plane[0, 0]).all() for plane in planes)
    back = to_rgb(planes, layout, colours)
    assert (back - solid([float(x) for x in colour])).abs().max() < 1.5 / 219


@pytest.mark.parametrize("layout", (YUV420, YUV422_10, YUV444, GBRP, ALPHA), ids=lambda layout: layout.name)
@pytest.mark.parametrize("size", ((8, 8), (7, 5), (1, 1), (2, 9)))
def test_there_and_back_at_any_size(layout: Layout, size: tuple[int, int]) -> None:
    colours = colours_of(layout, 8, 8, 9, LIMITED)
    image = solid((0.3, 0.7, 0.1, 0.6)[: 4 if layout.alpha else 3], *size)
    planes = from_rgb(image, layout, colours)
    assert [tuple(plane.shape) for plane in planes] == layout.sizes(*size)
    torch.testing.assert_close(to_rgb(planes, layout, colours), image, atol=1e-5, rtol=0)


def test_colours_stay_where_they_are() -> None:
    """FFmpeg's own way moves them by 0.45 pixels each time."""
    colours = colours_of(YUV420, 256, 32, 1, LIMITED)
    image = torch.zeros(3, 32, 256)
    image[0, :, 129] = 1
    for _ in range(8):
        image = to_rgb(from_rgb(image, YUV420, colours), YUV420, colours)
    chroma = (image[0] - image[1]).sum(0)
    assert float((chroma * torch.arange(256)).sum() / chroma.sum()) == pytest.approx(129, abs=0.01)


@pytest.mark.parametrize("field", INTERLACED)
def test_colours_of_a_field_stay_in_their_row(field) -> None:
    colours = colours_of(YUV420, 8, 48, 6, LIMITED)
    image = torch.zeros(3, 24, 8)
    image[0, 11] = 1
    for _ in range(4):
        image = to_rgb(from_rgb(image, YUV420, colours, field), YUV420, colours, field)
    chroma = (image[0] - image[1]).sum(1)
    assert float((chroma * torch.arange(24)).sum() / chroma.sum()) == pytest.approx(11, abs=0.01)


def test_fields_are_not_mixed() -> None:
    """Chroma of 90 in the one field and 160 in the other stays so at every row."""
    planes = [torch.full((16, 8), 128.0), torch.full((8, 4), 90.0), torch.full((8, 4), 128.0)]
    planes[1][1::2] = 160
    colours = colours_of(YUV420, 8, 16, 6, LIMITED)
    assert fields_of(16, True) == INTERLACED and fields_of(16, False) == fields_of(15, True) == (WHOLE,)
    blue = [
        to_rgb([plane[field.first :: 2] for plane in planes], YUV420, colours, field)[2]
        for field in INTERLACED
    ]
    assert all(rows.max() - rows.min() < 1e-6 for rows in blue)
    assert blue[1].mean() - blue[0].mean() == pytest.approx(1.772 * 70 / 224, abs=1e-4)


def test_untagged_films_are_guessed_by_their_size() -> None:
    hd, sd = colours_of(YUV420, 1280, 720, 2, 0), colours_of(YUV420, 720, 576, 2, 0)
    assert (hd.red, sd.red) == (0.2126, 0.299) and not hd.full
    assert colours_of(YUV420, 720, 577, 2, 0) == hd and colours_of(YUV420, 720, 576, 1, 0) == hd
    assert colours_of(GBRP, 8, 8, 0, 1).full and colours_of(GREY, 8, 8, 2, 0).full
    with pytest.raises(UsageError, match=r"colour matrix 14 .*expected one of 1, 4, 5, 6, 7, 9"):
        colours_of(YUV420, 8, 8, 14, 1)


def test_the_layout_that_keeps_most() -> None:
    assert closest(YUV420, [GREY, YUV444, YUV420]) is YUV420
    assert closest(YUV422_10, [YUV420, YUV444]) is YUV444  # sharp colours before nothing
    assert closest(ALPHA, [YUV420, GREY]) is YUV420
    assert loss(ALPHA, YUV420) > loss(YUV422_10, YUV444) > loss(YUV420, YUV420) == (0,) * 6


def frames(layout: Layout, scale: int = 1, **options) -> Frames:
    colours = colours_of(layout, 8, 8, 1, LIMITED)
    return Frames(Restorer(Same(scale)), layout, colours, layout, colours, **options)


@pytest.mark.parametrize("interlaced", (False, True))
@pytest.mark.parametrize("layout", (YUV420, YUV422_10, GBRP, GREY, ALPHA), ids=lambda layout: layout.name)
def test_what_the_network_leaves_stays_to_the_bit(layout: Layout, interlaced: bool) -> None:
    """Also code values that stand for no colour."""
    planes = [
        torch.randint(0, 2**layout.bits, size).float() for size in layout.sizes(24 + interlaced * 2, 18)
    ]
    for before, after in zip(planes, frames(layout)(planes, interlaced), strict=True):
        torch.testing.assert_close(before, after, atol=0, rtol=0)


def test_larger_results_and_previews() -> None:
    planes = from_rgb(solid((0.2, 0.5, 0.9), 8, 6), YUV420, colours_of(YUV420, 8, 8, 1, LIMITED))
    planes = stored(planes, 8)
    for options, size in (({}, (16, 12)), ({"preview": True}, (16, 24))):
        for interlaced in (False, True):
            result = frames(YUV420, 2, **options)(planes, interlaced)
            assert [tuple(plane.shape) for plane in result] == YUV420.sizes(*size)
            for before, after in zip(planes, result, strict=True):
                assert (after - before[0, 0]).abs().max() <= 1


def test_the_difference_of_the_network_is_added() -> None:
    class Brighter(Same):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 10 / 219

    colours = colours_of(YUV420, 8, 8, 1, LIMITED)
    planes = [torch.randint(20, 220, size).float() for size in YUV420.sizes(10, 14)]
    after = Frames(Restorer(Brighter()), YUV420, colours, YUV420, colours)(planes)
    assert torch.equal(after[0], planes[0] + 10) and torch.equal(after[1], planes[1])


def parts_of(target: Path, origin: dict, **options) -> Segments:
    parts = Segments(target)
    parts.claim(origin, **options)
    return parts


def finish(parts: Segments, start: int, stop: int) -> None:
    parts.unfinished(start).write_bytes(b"film")
    parts.finish(start, stop)


def test_parts_are_found_again(tmp_path: Path) -> None:
    target, origin = tmp_path / "out.mp4", {"weights": "abc", "frames": (0, 9)}
    first = parts_of(target, origin)
    for start, stop in ((0, 4), (4, 8), (9, 12)):
        finish(first, start, stop)
    first.unfinished(8).write_bytes(b"half")
    again = parts_of(target, origin)
    assert again.done(0) == 8 and again.done(5) == 5 and len(again.finished(0)) == 2
    assert not again.unfinished(8).exists()
    assert [path.name for path in again.finished(4)] == ["00000004-00000008.mp4"]
    with pytest.raises(UsageError, match=r"out\.mp4\.parts: holds parts .* with other weights; expected the"):
        parts_of(target, origin | {"weights": "xyz"})
    assert parts_of(target, origin | {"weights": "xyz"}, overwrite=True).done(0) == 0
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_missing_parts(tmp_path: Path) -> None:
    """The last range has no end, because the number of frames is an estimate."""
    parts = parts_of(tmp_path / "a.mkv", {})
    assert list(parts.missing(0, 10, 4, None)) == [(0, 4), (4, 8), (8, None)]
    assert list(parts.missing(3, 10, 4, 10)) == [(3, 7), (7, 10)]
    for start, stop in ((0, 4), (8, 12), (12, 14)):
        finish(parts, start, stop)
    assert list(parts.missing(0, 13, 4, None)) == [(4, None)]
    assert list(parts.missing(0, 20, 4, None)) == [(4, 8), (14, 18), (18, None)]
    finish(parts, 4, 8)
    assert list(parts.missing(0, 14, 4, None)) == [(14, None)]  # there might be more


def test_a_folder_without_its_note_is_not_trusted(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "a.mkv", {"weights": 1})
    finish(parts, 0, 4)
    (parts.folder / "film.json").write_text("{damaged")
    with pytest.raises(UsageError, match="other settings, which are not recorded"):
        parts_of(tmp_path / "a.mkv", {"weights": 2})
    assert parts_of(tmp_path / "a.mkv", {"weights": 2}, overwrite=True).done(0) == 0
    assert json.loads((parts.folder / "film.json").read_text()) == {"weights": 2}


def test_damage_lasts_until_the_next_key_frame() -> None:
    damage = Damage()
    for number in range(12):
        if number == 4:
            damage.packet(4, "error while decoding")
            damage.packet(4, "another")
        damage.frame(number, number / 10, number, key=number % 6 == 0, corrupt=number == 8)
    damage.note("cut")
    assert damage.report() == [
        "frames 4 to 5, from 0.400 s: error while decoding",
        "frames 8 to 11, from 0.800 s: the decoder reports a damaged picture",
        "cut",
    ]


def test_a_key_frame_before_the_damaged_packet_clears_nothing() -> None:
    """Decoders return frames later than they take packets."""
    damage = Damage()
    damage.packet(7, "bad")
    for number in range(5, 10):
        damage.frame(number, None, number, key=number == 6, corrupt=False)
    assert damage.report() == ["frames 5 to 9: bad"]
    damage = Damage()
    damage.packet(7, "bad")
    assert damage.report() == ["the last frames: bad"]


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("vimzoo.film.", "vimzoo.restoration.film"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    assert main([str(tmp_path / "a.mp4"), "b.mp4", "--checkpoint", "none"]) == 2
    assert (
        capsys.readouterr().err == f"error: {tmp_path}/a.mp4: films need PyAV; pip install 'vimzoo[films]'\n"
    )


def test_numbers_are_rounded_to_those_that_exist() -> None:
    (values,) = stored([torch.tensor([-3.0, 0.6, 255.4, 300.0])], 8)
    assert values.tolist() == [0, 1, 255, 255] and np.array_equal(values, values.round())
