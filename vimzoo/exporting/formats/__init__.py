"""All export formats, by name: every module of this folder defines one `FORMAT`."""

from importlib import import_module
from pkgutil import iter_modules

from ..record import Format


def scan() -> dict[str, Format]:
    """The formats of all modules in the package's folders, by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {module.FORMAT.name: module.FORMAT for module in modules}


FORMATS: dict[str, Format] = scan()
