"""The arguments of `python -m vimzoo.restore` that are about films."""

from __future__ import annotations

import argparse
from pathlib import Path

from vimzoo.commands import whole_number
from vimzoo.errors import UsageError

from . import SUFFIXES

__all__ = ["FILM_OPTIONS", "add_arguments", "check_kind", "is_film"]

FILM_OPTIONS = ("encoder", "crf", "frames", "preview", "hwaccel")
PICTURE_OPTIONS = ("with", "peak", "format", "quality", "pages", "extra_bands")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments to a command."""
    films = command.add_argument_group("films")
    films.add_argument(
        "--encoder", metavar="NAME",
        help="libx264, libx265, libsvtav1, libvpx-vp9, prores_ks, ffv1, qtrle, h264_nvenc, hevc_nvenc or av1_nvenc "
        "(default: one that keeps what the film has)",
    )  # fmt: skip
    films.add_argument(
        "--crf", metavar="N", type=whole_number(0), help="the encoder's quality; 0 is best (default: near lossless)"
    )  # fmt: skip
    films.add_argument(
        "--frames", metavar="FIRST:STOP", type=_frames, help="restore only these frames, counted from 0"
    )
    films.add_argument("--preview", action="store_true", help="show the original to the left of the result")
    films.add_argument(
        "--hwaccel", metavar="NAME", help="decode on hardware, by FFmpeg's name for it, such as cuda"
    )


def _frames(text: str) -> tuple[int, int | None]:
    first, colon, stop = text.partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (first, stop)):
        raise argparse.ArgumentTypeError(f"expected FIRST:STOP, such as 10:20, got {text!r}")
    if stop and int(stop) <= int(first or 0):
        raise argparse.ArgumentTypeError(f"expected at least one frame, got {text!r}")
    return int(first or 0), int(stop) if stop else None


def is_film(path: Path) -> bool:
    """Whether an input is taken for a film, by its name."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def check_kind(options: argparse.Namespace, defaults: argparse.ArgumentParser) -> None:
    """Refuse options that only pictures, or only films, have.

    Args:
        options: The parsed arguments.
        defaults: The command.

    Raises:
        UsageError: the options do not fit the input.
    """
    film = is_film(Path(options.input))
    for name in PICTURE_OPTIONS if film else FILM_OPTIONS:
        if getattr(options, name) != defaults.get_default(name):
            kind = "pictures" if film else "films"
            raise UsageError(f"--{name.replace('_', '-')}: is an option for {kind}, got {options.input}")
