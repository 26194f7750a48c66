"""All picture formats, by name: modules of this folder define one `FORMAT` each."""

from vimzoo.records import records

from ..record import Format

FORMATS: dict[str, Format] = {format.name: format for format in records(__name__, "FORMAT")}
SUFFIXES: dict[str, Format] = {suffix: format for format in FORMATS.values() for suffix in format.suffixes}
"""Formats by file name suffix, in lower case."""
WRITTEN: dict[str, Format] = {
    suffix: format for suffix, format in SUFFIXES.items() if format.write is not None
}
"""Formats that can be written, by suffix."""
