"""Finds the records that the modules of a folder define, so that adding one is adding a file."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def records(package: str, attribute: str, *, folders: bool = False) -> Iterator[Any]:
    """The ``attribute`` of every module and subpackage that a package holds, in alphabetical order.

    Args:
        package: The package's full name. It may be the one that is being imported.
        attribute: Name of the record, such as ``"TASK"``. Modules without it are passed over.
        folders: Look at subpackages alone, and import no other module.
    """
    for module in iter_modules(import_module(package).__path__):
        if folders and not module.ispkg:
            continue
        found = vars(import_module(f"{package}.{module.name}"))
        if attribute in found:
            yield found[attribute]
