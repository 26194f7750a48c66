"""All kinds of data, by name: every module of this folder defines one `SOURCE`."""

from vimzoo.records import records

from ..record import Source

SOURCES: dict[str, Source] = {source.name: source for source in records(__name__, "SOURCE")}
