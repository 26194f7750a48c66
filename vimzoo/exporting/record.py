"""The record of an export format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

METADATA = "model.json"
"""Name of the entry in which a file carries what its user must know: input size, normalisation, classes or scale."""

Run = Callable[..., Tensor]
"""A file that has been loaded, as a function of images ``(B, C, H, W)``, or of whatever inputs the model takes."""

Shapes = tuple[tuple[int, ...], ...]
"""Of every input of one call."""

Examples = Tensor | tuple[Tensor, ...]
"""The inputs of one call: one tensor, or several in the order of the model's ``forward``."""


class Opened(NamedTuple):
    """A file in a runtime, and what the file says of itself.

    Attributes:
        run: The file as a function of images.
        metadata: As `Source.metadata` had it, as text: name -> JSON.
        sides: Height and width of the images; None where the file takes any.
    """

    run: Run
    metadata: Mapping[str, str]
    sides: tuple[int | None, int | None]


class Source(NamedTuple):
    """What a format is given to write.

    Attributes:
        model: In evaluation mode, on the CPU.
        example: Images ``(B, C, H, W)``, float32, B at least 2; if the model takes several inputs, all of them.
        dynamic_size: Whether the file must take other heights and widths too. The batch size is always open.
        metadata: To be stored in the file, as JSON.
    """

    model: nn.Module
    example: Examples
    dynamic_size: bool
    metadata: Mapping[str, Any]


class Variant(NamedTuple):
    """A second file that a format can make from the one it has written.

    Attributes:
        suffix: Of its files, instead of the format's own.
        make: Reads the first path and writes the second.
        help: Of the command's option.
    """

    suffix: str
    make: Callable[[Path, Path], None]
    help: str


class Runtime(NamedTuple):
    """Runs files of a format beside what `Format.load` uses; where it is installed, files are checked in it too.

    Attributes:
        name: For messages.
        requires: Modules that `load` imports.
        load: Loads a file for inputs of any shapes that it takes, or of these only.
    """

    name: str
    requires: tuple[str, ...]
    load: Callable[[Path, Shapes | None], Run]


@dataclass(frozen=True)
class Format:
    """A kind of file that a model can be written as.

    Each module of `vimzoo.exporting.formats` defines one as ``FORMAT``; the command, its help and the documentation
    list what is there.

    Attributes:
        name: Value of the command's ``--format``.
        suffix: Of its files.
        save: Writes a file.
        load: Loads such a file.
        runs_with: What runs the files, as a phrase for the documentation.
        operators: What the files are made of, likewise.
        requires: Modules that `save` and `load` import.
        extra: The extra of this package that installs them.
        variants: Name of the command's option -> what it adds.
        others: Further runtimes that read the files.
        companions: Suffixes of files that `save` writes beside the file, whose suffix they have instead.
        folder: Whether the file is a folder.
        prepare: Raises UsageError before any work if something else that `save` needs is missing.
    """

    name: str
    suffix: str
    save: Callable[[Source, Path], None]
    load: Callable[[Path], Run]
    runs_with: str
    operators: str
    requires: tuple[str, ...] = ()
    extra: str = "export"
    variants: Mapping[str, Variant] = field(default_factory=dict)
    others: tuple[Runtime, ...] = ()
    companions: tuple[str, ...] = ()
    folder: bool = False
    prepare: Callable[[], object] | None = None

    def missing(self) -> list[str]:
        """Those of `requires` that are not installed."""
        return [module for module in self.requires if find_spec(module) is None]
