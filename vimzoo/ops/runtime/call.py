"""The inputs of one call of an operator, by name: what every backend is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

OPERATORS = ("scan_paths", "scan_carried", "selective_scan", "causal_conv1d", "add_norm")
"""The operators that backends implement; each has a backward operator ``NAME_backward``."""


def empty(like: Tensor) -> Tensor:
    """The placeholder that an op's schema returns for an absent tensor: no items, float32."""
    return like.new_empty(0, dtype=torch.float32)


class Call:
    """Base of the operators' dataclasses of inputs, whose fields are the arguments of the schema, in its order.

    A forward and a backward operator share one such class: the schema of the backward operator starts with gradients
    and saved tensors, followed by these fields, without ``save_states``; ``backend`` is in neither. Instances are
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
    def tensor_places(cls) -> tuple[int, ...]:
        """The places of all fields that hold a tensor or ``None``, among the arguments of either operator."""
        return tuple(i for i, field in enumerate(fields(cls)) if "Tensor" in str(field.type))  # type: ignore[arg-type]

    @property
    def first(self) -> Tensor:
        """The operator's main input, whose device decides which backends are asked."""
        raise NotImplementedError

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the operator's first output; by default that of `first`."""
        return tuple(self.first.shape)

    def arguments(self) -> tuple[Any, ...]:
        """The inputs in the order of the backward operator's schema."""
        return tuple([getattr(self, name) for name in self.names(backward=True)])

    @property
    def leaves(self) -> tuple[Tensor | None, ...]:
        """The inputs that have gradients."""
        return self.arguments()[: self.DIFFERENTIABLE]

    def with_leaves(self, leaves: Sequence[Tensor | None]) -> Self:
        """The same call with other tensors in place of `leaves`."""
        return type(self)(*leaves, *self.arguments()[self.DIFFERENTIABLE :])

    def zeros(self) -> tuple[Tensor, ...]:
        """Gradients of a call with empty outputs: zeros for each of `leaves`, `empty` for an absent one."""
        return tuple(empty(self.first) if t is None else t.new_zeros(t.shape) for t in self.leaves)

    def like_leaves(self) -> tuple[Tensor, ...]:
        """Uninitialised gradients, as fake kernels return them."""
        return tuple(empty(self.first) if t is None else t.new_empty(t.shape) for t in self.leaves)
