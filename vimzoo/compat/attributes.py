"""The authors' attributes of models that keep their parts under other names."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from torch import nn

__all__ = [
    "Alias", "Computed", "Fixed", "OfficialAttributes", "OfficialModel", "View", "defaults_of", "given_arguments",
    "refuse_unknown",
]  # fmt: skip


class Alias:
    """An attribute of the authors' that reads and assigns one of ours.

    Args:
        path: Our name, with dots.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __get__(self, owner: Any, kind: type) -> Any:
        return self if owner is None else attrgetter(self.path)(owner)

    def __set__(self, owner: Any, value: Any) -> None:
        parent, _, name = self.path.rpartition(".")
        setattr(attrgetter(parent)(owner) if parent else owner, name, value)


class Computed:
    """A read-only property that ``torch.jit.script`` does not compile, as it would Python's own."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read, self.__doc__ = read, read.__doc__

    def __set_name__(self, kind: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type) -> Any:
        return self if owner is None else self.read(owner)

    def __set__(self, owner: Any, value: Any) -> None:
        raise AttributeError(f"{self.name}: a view of {type(owner).__name__}'s parts; assign the parts")


class View:
    """A part of one of our tensors under the authors' name; it can be read, or changed in place.

    Args:
        path: Our name, with dots.
        index: The direction; ``None`` joins the axes of directions and channels.
    """

    def __init__(self, path: str, index: int | None = None) -> None:
        self.path, self.index = path, index

    def __set_name__(self, kind: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self
        tensor = attrgetter(self.path)(owner)
        if self.index is None:
            return tensor.flatten(0, 1)
        if self.index >= len(tensor):
            raise AttributeError(f"{type(owner).__name__} has no {self.name}: there is one direction")
        return tensor[self.index]

    def __set__(self, owner: Any, value: Any) -> None:
        raise AttributeError(f"{self.name}: a view of {self.path}; copy into it instead")


class Fixed:
    """A constructor argument that their code reads back. Assigning it would change nothing, so that is refused."""

    def __set_name__(self, kind: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type) -> Any:
        return self if owner is None else owner.arguments[self.name]

    def __set__(self, owner: Any, value: Any) -> None:
        raise AttributeError(f"{self.name}: fixed when {type(owner).__name__} is built, got {value!r}")


class OfficialAttributes(nn.Module):
    """Base of modules with the descriptors above.

    `torch.nn.Module` registers an assigned module even if the class has a descriptor of that name; here the descriptor
    is called.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        found = getattr(type(self), name, None)
        if isinstance(found, Alias | Computed | Fixed | View):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class OfficialModel(OfficialAttributes):
    """Base of whole models; ``arguments`` are the constructor's, by the authors' names."""

    if TYPE_CHECKING:  # TorchScript takes annotations of a class for attributes to compile
        arguments: dict[str, Any]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, beyond vectors and biases.

        Whole names, as the authors' optimizers compare them; timm's own models return patterns.
        """
        patterns = super().no_weight_decay()  # type: ignore[misc]
        names = [name for name, _ in self.named_parameters()]
        return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}


def given_arguments(local: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's arguments by name, from ``locals()`` on its first line; those of ``**kwargs`` follow."""
    given = {name: value for name, value in local.items() if name not in ("self", "kwargs", "__class__")}
    return {**given, **local.get("kwargs", {})}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a function's arguments, by name."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def refuse_unknown(kind: str, names: Iterable[str], known: Iterable[str] = ()) -> None:
    """Refuse keyword arguments that a constructor does not have.

    Args:
        kind: The constructor's name.
        names: Keyword arguments beyond its parameters.
        known: Those that are accepted.

    Raises:
        TypeError: there are others.
    """
    if unknown := sorted(set(names) - set(known)):
        raise TypeError(f"{kind}() got unexpected keyword arguments {', '.join(unknown)}")
