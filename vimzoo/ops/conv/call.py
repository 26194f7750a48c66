"""The inputs of the causal convolution by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..runtime.call import Call


@dataclass(slots=True)
class ConvCall(Call):
    """The inputs of ``vimzoo::causal_conv1d``, as `vimzoo.ops.causal_conv1d` describes them."""

    DIFFERENTIABLE: ClassVar[int] = 3

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    reverse: list[bool]
    activation: str | None

    @property
    def first(self) -> Tensor:
        """The input."""
        return self.x

    @property
    def directions(self) -> int:
        """Number of filters K."""
        return self.weight.shape[0]

    @property
    def taps(self) -> int:
        """Length W of a filter."""
        return self.weight.shape[2]

    def new_output(self) -> Tensor:
        """Uninitialised ``(B, L, K, D)`` over memory in which K comes first."""
        batch, length, channels = self.x.shape
        return self.x.new_empty((self.directions, batch, length, channels)).permute(1, 2, 0, 3)
