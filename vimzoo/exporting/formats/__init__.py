"""All export formats, by name: every module of this folder defines one `FORMAT`."""

from vimzoo.records import records

from ..record import Format

FORMATS: dict[str, Format] = {format.name: format for format in records(__name__, "FORMAT")}
