"""The inputs of one call of an operator, by name: what every backend is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


def empty(like: Tensor) -> Tensor:
    """The placeholder that an op's schema returns for an absent tensor: no items, float32."""
    return like.new_empty(0, dtype=torch.float32)


class Call:
    """Base of the operators' dataclasses of inputs, whose fields are the arguments of the schema, in its order.

    A forward and a backward operator share one such class: the schema of the backward operator starts with gradients
    and saved tensors and goes on with these fields, without ``save_states``; ``backend`` is in neither. Instances are
    made once per call and not changed.
    """

    __slots__ = ()
    DIFFERENTIABLE: ClassVar[int]
    """How many leading fields are tensors (or ``None``) that the operator has gradients for."""

    @classmethod
    @cache
    def names(cls, backward: bool = False) -> tuple[str, ...]:
        """The names of the fields; of those that a backward operator takes if ``backward``."""
        return tuple(
            field.name
            for field in fields(cls)  # type: ignore[arg-type]
            if not (backward and field.name == "save_states")
        )

    @classmethod
    @cache
    def tensor_names(cls) -> tuple[str, ...]:
        """The names of all fields that hold a tensor or ``None``."""
        return tuple(field.name for field in fields(cls) if "Tensor" in str(field.type))  # type: ignore[arg-type]

    @classmethod
    @cache
    def _getter(cls, names: tuple[str, ...]) -> attrgetter:
        return attrgetter(*names)

    @property
    def first(self) -> Tensor:
        """The operator's main input, whose device decides which backends are asked."""
        return getattr(self, self.names()[0])

    @property
    def leaves(self) -> tuple[Tensor | None, ...]:
        """The inputs that have gradients."""
        return self._getter(self.names()[: self.DIFFERENTIABLE])(self)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors among the inputs, in the order of `tensor_names`."""
        return self._getter(self.tensor_names())(self)

    def arguments(self) -> tuple[Any, ...]:
        """The inputs in the order of the backward operator's schema."""
        return self._getter(self.names(backward=True))(self)

    def with_leaves(self, leaves: Sequence[Tensor | None]) -> Self:
        """The same call with other tensors in place of `leaves`."""
        return self._with(self.names()[: self.DIFFERENTIABLE], leaves)

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> Self:
        """The same call with other tensors in place of `tensors`."""
        return self._with(self.tensor_names(), tensors)

    def _with(self, names: tuple[str, ...], values: Sequence[Tensor | None]) -> Self:
        every = self.names()
        inputs = dict(zip(every, self._getter(every)(self), strict=True))
        inputs.update(zip(names, values, strict=True))
        return type(self)(**inputs)

    def zeros(self) -> tuple[Tensor, ...]:
        """Gradients of a call with empty outputs: zeros for each of `leaves`, `empty` for an absent one."""
        return tuple(empty(self.first) if t is None else t.new_zeros(t.shape) for t in self.leaves)

    def like_leaves(self) -> tuple[Tensor, ...]:
        """Uninitialised gradients, as fake kernels return them."""
        return tuple(empty(self.first) if t is None else t.new_empty(t.shape) for t in self.leaves)
