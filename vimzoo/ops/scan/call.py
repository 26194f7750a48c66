"""The inputs of the two scans by name, and what follows from them: sizes, outputs, gradients of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..runtime.abi import CONSTANTS
from ..runtime.call import Call, empty

CHUNK = CONSTANTS["CHUNK"]
"""Steps between saved states."""


def states_size(batch: int, directions: int, steps: int, d_state: int, channels: int) -> int:
    """Floats in the states that a forward pass saves, one row ``(B, K, chunks, N, D)`` before every `CHUNK` steps.

    They are kept one-dimensional: with an axis of chunks the compiler would specialise on maps of a single chunk.
    """
    return batch * directions * ((steps + CHUNK - 1) // CHUNK) * d_state * channels


def check_states(states: Tensor, size: int) -> None:
    """Check the number of saved states given to a backward operator: ``size``, or 0 if none were saved.

    Raises:
        ValueError: it is another.
    """
    if states.numel() not in (size, 0):
        raise ValueError(
            f"states: expected {size} values as a forward pass saves them, or 0, got {states.numel()}"
        )


class PathsCall(Call):
    """What the scans along paths have in common."""

    __slots__ = ()
    x: Tensor
    x_dbl: Tensor
    A: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    D: Tensor | None
    z: Tensor | None
    codes: list[int]
    table: Tensor | None
    height: int
    width: int
    merge: bool
    save_states: bool

    @property
    def first(self) -> Tensor:
        """The tokens."""
        return self.x

    @property
    def batch(self) -> int:
        """Number of images B."""
        return self.x.shape[0]

    @property
    def length(self) -> int:
        """Number of tokens L of an image."""
        return self.x.shape[1]

    @property
    def channels(self) -> int:
        """Channels D."""
        return self.x.shape[-1]

    @property
    def directions(self) -> int:
        """Number of paths K."""
        return len(self.codes)

    @property
    def own_inputs(self) -> bool:
        """Whether each direction has its own x, ``(B, L, K, D)``."""
        return self.x.dim() == 4

    @property
    def d_state(self) -> int:
        """States N of a channel."""
        return self.A.shape[-1]

    @property
    def rank(self) -> int:
        """Rank R of the step-size projection."""
        return self.dt_weight.shape[-1]

    @property
    def gives_states(self) -> bool:
        """Whether rows are ``[dt | B]``: C is 1, and the output is the state, of which there is one a channel."""
        return self.d_state == 1 and self.x_dbl.shape[-1] == self.rank + 1

    @property
    def rows(self) -> Tensor:
        """``x_dbl`` with C in any case, ``(B, L, K or 1, R + 2 N)``."""
        x_dbl = self.x_dbl
        return torch.cat([x_dbl, torch.ones_like(x_dbl[..., :1])], -1) if self.gives_states else x_dbl

    @property
    def steps(self) -> int:
        """Steps T of a path."""
        return self.height * self.width if self.table is None else self.table.shape[1]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(B, L, D)``, or ``(B, K, T, D)`` without ``merge``."""
        if self.merge:
            return (self.batch, self.length, self.channels)
        return (self.batch, self.directions, self.steps, self.channels)

    @property
    def states_size(self) -> int:
        """`states_size` of this call."""
        return states_size(self.batch, self.directions, self.steps, self.d_state, self.channels)

    def gradients(
        self, *, dx: Tensor, dx_dbl: Tensor, dA: Tensor, dW: Tensor, dbias: Tensor, dD: Tensor, dz: Tensor | None
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """What the backward operator returns, from the sums that kernels make in float32 for every direction.

        Args:
            dx, dx_dbl, dz: of the shape of the inputs, the first two of any dtype.
            dA, dW, dbias, dD: ``(K, D, ...)``; folded where the directions share a parameter.
        """
        x = self.x
        parameters = ((dA, self.A), (dW, self.dt_weight), (dbias, self.dt_bias), (dD, self.D))
        return (
            dx.to(x.dtype),
            dx_dbl.to(x.dtype),
            *(self._to_parameter(total, parameter) for total, parameter in parameters),
            empty(x) if dz is None else dz,
        )

    def _to_parameter(self, total: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return empty(total)
        shared = parameter.shape[0] != self.directions
        return (total.sum(0, keepdim=True) if shared else total).to(parameter.dtype)


@dataclass(slots=True)
class ScanCall(PathsCall):
    """The inputs of ``vimzoo::scan_paths``, as `vimzoo.ops.scan_paths` describes them."""

    DIFFERENTIABLE: ClassVar[int] = 7

    x: Tensor
    x_dbl: Tensor
    A: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    D: Tensor | None
    z: Tensor | None
    codes: list[int]
    table: Tensor | None
    height: int
    width: int
    merge: bool
    save_states: bool = False


@dataclass(slots=True)
class CarriedCall(PathsCall):
    """The inputs of ``vimzoo::scan_carried``: those of ``vimzoo::scan_paths``, and the states before the first step."""

    DIFFERENTIABLE: ClassVar[int] = 8

    x: Tensor
    x_dbl: Tensor
    A: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    D: Tensor | None
    z: Tensor | None
    initial_state: Tensor | None
    codes: list[int]
    table: Tensor | None
    height: int
    width: int
    merge: bool
    save_states: bool = False

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of the states before the first step and after the last, ``(B, K, D, N)``."""
        return (self.batch, self.directions, self.channels, self.d_state)

    @property
    def state_dtype(self) -> torch.dtype:
        """Of the states after the last step: float32, or float64 for float64."""
        return torch.float64 if self.x.dtype == torch.float64 else torch.float32

    def initial(self, dtype: torch.dtype) -> Tensor:
        """The states before the first step, zero if none are given."""
        given = self.initial_state
        return self.x.new_zeros(self.state_shape, dtype=dtype) if given is None else given.to(dtype)

    def with_initial(self, gradients: tuple[Tensor, ...], d_initial: Tensor | None) -> tuple[Tensor, ...]:
        """What the backward operator returns: `gradients`, and that of the states before the first step."""
        given = self.initial_state
        return (
            *gradients,
            empty(self.x) if given is None or d_initial is None else d_initial.to(given.dtype),
        )


@dataclass(slots=True)
class SelectiveCall(Call):
    """The inputs of ``vimzoo::selective_scan``, as `vimzoo.ops.selective_scan` describes them."""

    DIFFERENTIABLE: ClassVar[int] = 8

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    save_states: bool = False

    @property
    def first(self) -> Tensor:
        """The input sequence."""
        return self.u

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.u.shape[0]

    @property
    def channels(self) -> int:
        """Channels D."""
        return self.u.shape[1]

    @property
    def length(self) -> int:
        """Steps L."""
        return self.u.shape[2]

    @property
    def d_state(self) -> int:
        """States N of a channel."""
        return self.A.shape[1]

    @property
    def groups(self) -> int:
        """Groups of channels that share B and C."""
        return max(matrix.shape[1] if matrix.dim() == 4 else 1 for matrix in (self.B, self.C))

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of the last state: float32, float64 for float64, complex with complex A."""
        work = torch.float64 if self.u.dtype == torch.float64 else torch.float32
        return torch.promote_types(work, torch.complex64) if self.A.is_complex() else work

    @property
    def states_size(self) -> int:
        """`states_size` of this call."""
        return states_size(self.batch, 1, self.length, self.d_state, self.channels)

    def gradients(
        self, *, du: Tensor, ddelta: Tensor, dA: Tensor, dB: Tensor, dC: Tensor, dD: Tensor, dz: Tensor | None,
        dbias: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """What the backward operator returns, from the sums that kernels make in float32.

        Args:
            du, ddelta, dz: as the inputs.
            dA, dD, dbias: ``(D, ...)``.
            dB, dC: ``(B, G, N, L)``; folded if a matrix has no groups.
        """

        def to_matrix(total: Tensor, matrix: Tensor) -> Tensor:
            if (matrix.dim() == 3 or matrix.shape[1] == 1) and total.shape[1] > 1:
                total = total.sum(1, keepdim=True)
            return total.reshape(matrix.shape).to(matrix.dtype)

        def to_parameter(total: Tensor, parameter: Tensor | None) -> Tensor:
            return empty(du) if parameter is None else total.to(parameter.dtype)

        return (
            du,
            ddelta,
            to_parameter(dA, self.A),
            to_matrix(dB, self.B),
            to_matrix(dC, self.C),
            to_parameter(dD, self.D),
            empty(du) if dz is None else dz,
            to_parameter(dbias, self.delta_bias),
        )
