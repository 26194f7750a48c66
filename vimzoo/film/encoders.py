"""The encoders that are offered, and the choice of one that keeps what a film has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vimzoo.errors import UsageError, similar

from .layout import Layout, loss
from .light import Light
from .planes import encodable

__all__ = ["CONTAINERS", "ENCODERS", "Encoder", "Needs", "check_crf", "check_name", "chosen"]

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""Suffixes of results."""
NO_LIGHT = Light()
_MOST = (".mp4", ".m4v", ".mov", ".mkv")


@dataclass(frozen=True)
class Encoder:
    """An encoder and its options.

    Attributes:
        name: FFmpeg's name.
        containers: Suffixes of files that hold its films.
        quality: Its option for ``--crf``; None: it has none, because it is lossless or of one quality.
        usual, worst: Default and largest value of that option; 0 is best.
        options: Further options, without B-frames: segments that have some cannot be joined.
        tuning: The option that holds an encoder's own settings, and settings without B-frames.
        tags: Names of HDR10's two settings there, and their units as in `Light.mastering`.
        alpha: Suffixes of files in which it keeps transparency.
        odd: Whether it takes odd sizes with 4:2:0 and 4:2:2.
        smallest: Shortest side in pixels.
        unread: Pixel formats that are not read back as such.
        fields: Whether it keeps the fields of interlaced films apart.
    """

    name: str
    containers: tuple[str, ...]
    quality: str | None = None
    usual: int = 0
    worst: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    tuning: tuple[str, str] | None = None
    tags: tuple[str, str, int, int] | None = None
    alpha: tuple[str, ...] = ()
    odd: bool = False
    smallest: int = 1
    unread: tuple[str, ...] = ()
    fields: bool = False

    def settings(self, crf: int | None, light: Light, top_first: bool | None, alpha: bool) -> dict[str, str]:
        """The encoder's options.

        Args:
            crf: Quality; None is the usual one.
            light: HDR10's tags.
            top_first: Whether the top field is shown first; None: the film is not interlaced.
            alpha: Whether the frames have transparency.
        """
        options = dict(self.options)
        if self.quality is not None:
            options[self.quality] = str(self.usual if crf is None else crf)
        if alpha and self.name == "libvpx-vp9":
            options["auto-alt-ref"] = "0"  # with the default it drops transparency
        own = [self.tuning[1]] if self.tuning is not None and self.tuning[1] else []
        if self.tags is not None:
            display, level, *units = self.tags
            if (mastering := light.mastering(*units)) is not None:
                own.append(f"{display}={mastering}")
            if light.level is not None:
                own.append(f"{level}={light.level[0]},{light.level[1]}")
        if self.fields and top_first is not None:
            options["flags"] = "+ilme+ildct"
            own.append("tff=1" if top_first else "bff=1")
        if self.tuning is not None and own:
            options[self.tuning[0]] = ":".join(own)
        return options


ENCODERS = {
    encoder.name: encoder
    for encoder in (
        Encoder(
            "libx264", _MOST, "crf", 16, 51, {"bf": "0"}, ("x264-params", ""),
            ("mastering-display", "cll", 50_000, 10_000), unread=("gray", "gray10le"), fields=True,
        ),
        Encoder(
            "libx265", _MOST, "crf", 18, 51, {}, ("x265-params", "bframes=0:log-level=error"),
            ("master-display", "max-cll", 50_000, 10_000), smallest=64,  # below it writes outside its memory
        ),
        Encoder(
            "libsvtav1", (".mp4", ".m4v", ".mkv", ".webm"), "crf", 20, 63, {}, ("svtav1-params", ""),
            ("mastering-display", "content-light", 0, 0), odd=True,
        ),
        Encoder(
            "libvpx-vp9", (".mkv", ".webm", ".mp4"), "crf", 18, 63, {"b": "0"}, alpha=(".mkv", ".webm"), odd=True,
            unread=("gbrap", "yuva422p", "yuva444p"),  # experimental
        ),
        Encoder("prores_ks", (".mov", ".mkv"), alpha=(".mov", ".mkv")),
        Encoder("qtrle", (".mov",), alpha=(".mov",), odd=True),
        Encoder("ffv1", (".mkv",), options={"level": "3", "slicecrc": "1"}, alpha=(".mkv",), odd=True),
        Encoder("h264_nvenc", _MOST, "cq", 19, 51, {"rc": "vbr", "bf": "0"}),
        Encoder("hevc_nvenc", _MOST, "cq", 19, 51, {"rc": "vbr", "bf": "0"}),
        Encoder("av1_nvenc", _MOST, "cq", 19, 51, {"rc": "vbr", "bf": "0"}),
    )
}  # fmt: skip
_DEEP = ("libx265", "libsvtav1", "libx264", "libvpx-vp9", "prores_ks", "ffv1", "qtrle")
_EIGHT = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1", "qtrle")


@dataclass(frozen=True)
class Needs:
    """What a result has to hold.

    Attributes:
        layout: Of the film's frames.
        width, height: Of the result.
        interlaced: Whether its fields were recorded one after the other.
        light: HDR10's tags.
    """

    layout: Layout
    width: int
    height: int
    interlaced: bool = False
    light: Light = NO_LIGHT


def chosen(suffix: str, needs: Needs, name: str | None = None) -> tuple[Encoder, Layout]:
    """The encoder and the pixel format that keep most of a film.

    Args:
        suffix: Of the result's name.
        needs: What it has to hold.
        name: The encoder, if it is given.

    Raises:
        UsageError: the encoder is unknown or not installed, or cannot write such a film into such a file; or no
            encoder can.
    """
    if suffix not in CONTAINERS:
        raise UsageError(f"output: expected a name ending in {', '.join(CONTAINERS)}, got {suffix or 'none'}")
    if name is not None:
        check_name(name)
    order: tuple[str, ...] = _DEEP if needs.layout.bits > 8 else _EIGHT
    if needs.interlaced:  # few encoders keep the order of fields
        order = tuple(sorted(order, key=lambda each: not ENCODERS[each].fields))
    reasons: dict[str, str] = {}
    fitting: list[tuple[Encoder, Layout]] = []
    for each in order if name is None else (name,):
        encoder = ENCODERS[each]
        try:
            fitting += [(encoder, layout) for layout in _layouts(encoder, suffix, needs)]
        except UsageError as error:
            reasons[each] = str(error)
    if not fitting:
        if name is not None:
            raise UsageError(f"--encoder {name}: {reasons[name]}")
        raise UsageError(f"no encoder fits: {'; '.join(f'{key}: {why}' for key, why in reasons.items())}")
    return min(fitting, key=lambda pair: loss(needs.layout, pair[1]))


def _layouts(encoder: Encoder, suffix: str, needs: Needs) -> list[Layout]:
    """The pixel formats in which an encoder can write a film.

    Raises:
        UsageError: there are none; the reason.
    """
    if suffix not in encoder.containers:
        raise UsageError(f"expected a name ending in {', '.join(encoder.containers)}, got {suffix}")
    if min(needs.width, needs.height) < encoder.smallest:
        raise UsageError(
            f"expected sides of at least {encoder.smallest} pixels, got {needs.width} x {needs.height}"
        )
    if needs.layout.alpha and suffix not in encoder.alpha:
        where = f"; expected a name ending in {', '.join(encoder.alpha)}" if encoder.alpha else ""
        raise UsageError(f"does not keep the film's transparency in {suffix}{where}")
    try:
        found = encodable(encoder.name)
    except ValueError as error:  # av.codec.UnknownCodecError
        raise UsageError("not in the installed FFmpeg") from error
    found = [
        layout for layout in found if layout.alpha == needs.layout.alpha and layout.name not in encoder.unread
    ]
    if not encoder.odd:
        found = [
            layout for layout in found if needs.width % layout.across == 0 and needs.height % layout.down == 0
        ]
    if not found:
        raise UsageError(f"no pixel format for {needs.width} x {needs.height} pixels of {needs.layout.name}")
    return found


def check_name(name: str) -> Encoder:
    """The encoder of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in ENCODERS:
        hint = similar(name, ENCODERS, otherwise=f"expected one of {', '.join(ENCODERS)}")
        raise UsageError(f"--encoder {name}: unknown; {hint}")
    return ENCODERS[name]


def check_crf(encoder: Encoder, crf: int | None) -> None:
    """Check the value of ``--crf``.

    Raises:
        UsageError: the encoder has no such value.
    """
    if crf is None:
        return
    if encoder.quality is None:
        raise UsageError(f"--crf: {encoder.name} has no such option")
    if not 0 <= crf <= encoder.worst:
        raise UsageError(f"--crf {crf}: expected 0 to {encoder.worst} for {encoder.name}")
