"""All kinds of data, by name: every module of this folder defines one `SOURCE`."""

from importlib import import_module
from pkgutil import iter_modules

from ..record import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (import_module(f"{__name__}.{module.name}").SOURCE for module in iter_modules(__path__))
}
