"""Matches degraded to clean files by the naming conventions of restoration data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from vimzoo.errors import UsageError

__all__ = ["HIGH_NAMES", "LOW_NAMES", "kind_folder", "listed_names", "matched"]

LOW_NAMES = ("low", "lr", "lq", "input", "noisy")
HIGH_NAMES = ("high", "hr", "gt", "target", "clean")
"""Folders of degraded and of clean images, in any case."""
_KIND = r"(?:HR|GT|HQ|LQ|LR(?:BI|BD|DN|_bicubic)?\d?)"
_ENDING = re.compile(rf"(?:[_-]SRF[_-]\d)?(?:[_-]{_KIND})?(?:[_-]?x\d)?$", re.IGNORECASE)
_FOLDER = re.compile(rf"(?:^|[_-]){_KIND}$|^x\d$", re.IGNORECASE)
_SHAPE = re.compile(r"\s+\(\d+, ?\d+, ?\d+\).*$")

Key = Callable[[PurePath], str | None]
Found = dict[str, list[PurePath]]


def _with_suffix(name: PurePath) -> str:
    return name.as_posix()


def _stem(name: PurePath) -> str:
    return name.with_suffix("").as_posix()


def _enlarged(scale: int) -> Key:
    """``a`` of ``ax2.png``."""
    ending = f"x{scale}"

    def key(name: PurePath) -> str | None:
        return _stem(name).removesuffix(ending) if name.stem.endswith(ending) else None

    return key


def _plain(name: PurePath) -> str:
    """The name without parts that mark degraded or clean files and folders: ``a`` of ``X2/a_LRBI_x2.png``."""
    folders = [part for folder in name.parts[:-1] if (part := _FOLDER.sub("", folder))]
    return "/".join([*folders, _ENDING.sub("", name.stem) or name.stem])


RULES: tuple[tuple[Key, Key], ...] = (
    (_with_suffix, _with_suffix),
    (_stem, _stem),
    *((_enlarged(scale), _stem) for scale in (2, 3, 4, 8)),
    (_plain, _plain),
)
"""Keys that are equal for a degraded and a clean file; the first rule that matches all files is used."""


def matched(low: Sequence[PurePath], high: Sequence[PurePath]) -> list[tuple[PurePath, PurePath]]:
    """Pairs of a degraded and a clean file, in the order of the clean ones.

    Names are equal, except for their suffix, an ``x2``, ``x3``, ``x4`` or ``x8`` of all degraded ones (DIV2K), or
    common additions to either (``_HR``, ``_LRBI_x2``, ``_SRF_2_LR``, folders ``X2``, ``HR``, ``LR_bicubic``).

    Raises:
        UsageError: files are without a partner, or several have one name; names some of them.
    """
    found = [(_by_key(low, low_key), _by_key(high, high_key)) for low_key, high_key in RULES]
    for lows, highs in found:
        pairs = [(lows[key][0], files[0]) for key, files in highs.items() if key in lows]
        single = len(lows) == len(low) and len(highs) == len(high)
        if single and len(pairs) == len(low) == len(high):
            return pairs
    best = min(found, key=lambda keys: len(_lonely(low, high, *keys)))
    raise UsageError(f"`root`: {_misfit(low, high, *best)}")


def _by_key(names: Sequence[PurePath], key: Key) -> Found:
    found: Found = {}
    for name in names:
        if (kept := key(name)) is not None:
            found.setdefault(kept, []).append(name)
    return found


def _lonely(low: Sequence[PurePath], high: Sequence[PurePath], lows: Found, highs: Found) -> list[str]:
    """Files without a counterpart on the other side."""
    paired_low = {name for key in lows.keys() & highs.keys() for name in lows[key]}
    paired_high = {name for key in lows.keys() & highs.keys() for name in highs[key]}
    return [
        *(f"low/{name}" for name in low if name not in paired_low),
        *(f"high/{name}" for name in high if name not in paired_high),
    ]


def _misfit(low: Sequence[PurePath], high: Sequence[PurePath], lows: Found, highs: Found) -> str:
    if lonely := _lonely(low, high, lows, highs):
        return f"files without a partner ({len(lonely)}): {', '.join(lonely[:5])}"
    several = next(files for found in (lows, highs) for files in found.values() if len(files) > 1)
    return f"{', '.join(map(str, several[:4]))} have one name, but for their suffix or scale; expected one of them"


def kind_folder(folder: Path, names: Sequence[str], layout: str) -> Path:
    """The sub-folder of one of these names, in any case; ``LQ.lmdb`` counts as ``LQ``.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name.lower().removesuffix(".lmdb") in names
    )
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"`root`: no folder {folder / names[0]} or {', '.join(names[1:])}; expected {layout}"
        )
    raise UsageError(f"`root`: {' and '.join(map(str, found))} could both be meant; expected one of them")


def listed_names(path: str | os.PathLike[str], named: str | None = None) -> list[str]:
    """Names of images in a list as BasicSR writes them: one a line, with or without ``(height,width,channels)``.

    Args:
        path: The list. named: What errors call it; None for ``meta_info``.

    Raises:
        UsageError: there is no such file, or no name in it.
    """
    named = f"`meta_info`={path}" if named is None else named
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{named}: cannot be read ({error})") from error
    names = [name for line in lines if (name := _SHAPE.sub("", line.strip()))]
    if not names:
        raise UsageError(f"{named}: holds no names; expected one a line")
    return names
