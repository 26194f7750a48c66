"""The record of a model family; each folder of `vimzoo.models` that holds a family defines one as ``FAMILY``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .class_maps import CamArguments
from .facts import Facts
from .weights.contents import Tensors
from .weights.dialect import Dialect


@dataclass(frozen=True)
class Family:
    """Everything that the rest of the package must know about a family of models.

    What exporters must know is the attribute ``export_options`` of the model class.

    Attributes:
        name: As people write it, and as its first class is called.
        facts: Facts by registered name; all of the same task.
        dialect: The authors' parameter names and ours.
        detect: Function from a state dict, under the authors' names or ours, to the class of model that it is from;
            None if it is not from this family.
        infer: Function that reads the constructor's arguments off a state dict: from the class that ``detect``
            returned, the tensors, and the caller's settings that cannot be inferred. It raises ValueError or KeyError
            if it fails. None if the family's models cannot be built from a file alone.
        networks: The classes that ``detect`` returns, of a family with ``infer``.
        cam: Function from a model and the height and width of images, or None for the model's own, to where class
            activation maps are read. None if the family's models have no classes.
        authors_names: The names under which the authors register models -> our registered names with their tags.
    """

    name: str
    facts: Mapping[str, Facts]
    dialect: Dialect
    detect: Callable[[Mapping[str, Tensor]], type[nn.Module] | None]
    infer: Callable[[Any, Tensors, Mapping[str, Any]], dict[str, Any]] | None = None
    networks: tuple[type[nn.Module], ...] = ()
    cam: Callable[[Any, tuple[int, int] | None], CamArguments] | None = None
    authors_names: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """As `vimzoo.models.facts.Facts.task`."""
        return next(iter(self.facts.values())).task
