"""The scan along paths from given states, which also returns the last ones: a long sequence in parts, streams."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends, reference
from ..runtime.contract import FLOATING, Contract, Given, exactly
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import (
    KERNELS,
    LIBRARY,
    autocast_activations,
    fake_gradients,
    implement,
    is_inference,
)
from .call import CarriedCall
from .rules import (
    PARAMETERS,
    SAVED,
    SETTINGS,
    SIZES,
    TENSORS,
    by_state,
    check_backward,
    check_settings,
    scan_flops,
)

_INPUTS = f"{PARAMETERS}, Tensor? initial_state, {SETTINGS}"
LIBRARY.define(f"scan_carried({_INPUTS}, bool save_states, str? backend=None) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"scan_carried_backward(Tensor grad, Tensor? grad_last, Tensor states, {_INPUTS}, str? backend=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def carried_codes(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: int,
    width: int,
    merge: bool = True,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`scan_codes` from given states; it can be scripted.

    Args:
        x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, backend: as in `scan_codes`.
        initial_state: ``(B, K, D, N)``; zero if ``None``.

    Returns:
        What `scan_codes` returns, and the states after the last step, ``(B, K, D, N)``.

    Raises:
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    if by_state(x_dbl, A, dt_weight):
        R = dt_weight.shape[-1]
        states: list[Tensor] = []
        finals: list[Tensor] = []
        for n in range(A.shape[-1]):
            rows = torch.cat([x_dbl[..., :R], x_dbl[..., R + n : R + n + 1]], -1)
            initial = initial_state
            if initial is not None:
                initial = initial[..., n : n + 1]
            state, final = _carried(
                x, rows, A[..., n : n + 1], dt_weight, dt_bias, D, z, initial, codes, table, height, width, merge,
                backend,
            )  # fmt: skip
            states.append(state)
            finals.append(final)
        return torch.stack(states, -1), torch.cat(finals, -1)
    return _carried(
        x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, codes, table, height, width, merge, backend
    )


def _carried(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: int,
    width: int,
    merge: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript skips only a block of its own
        if is_inference(x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, table):
            y, final, _ = KERNELS["scan_carried"](
                x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, codes, table, height, width, merge, False,
                backend,
            )  # fmt: skip
            return y, final
    y, final, _ = torch.ops.vimzoo.scan_carried(
        x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, codes, table, height, width, merge,
        torch.is_grad_enabled(), backend,
    )  # fmt: skip
    return y, final


def _state_dtype(given: Given) -> torch.dtype:
    return CarriedCall(*(given[name] for name in CarriedCall.names(backward=True))).state_dtype


_TENSORS = TENSORS | {"initial_state": ("B K D N", FLOATING)}
CONTRACT = Contract("scan_carried", _TENSORS, SIZES, check_settings)
BACKWARD_CONTRACT = Contract(
    "scan_carried_backward",
    _TENSORS | SAVED | {"grad_last": ("B K D N", exactly(_state_dtype))},
    SIZES,
    check_backward,
)


def _fake(call: CarriedCall, *, backend: str | None) -> tuple[Tensor, Tensor, Tensor]:
    saves = call.save_states and backends.saves_states("scan_carried", backend, call)
    x, last = call.x, call.x.new_empty(call.state_shape, dtype=call.state_dtype)
    return (
        x.new_empty(call.output_shape),
        last,
        x.new_empty(call.states_size if saves else 0, dtype=torch.float32),
    )


implement("scan_carried", CarriedCall, CONTRACT, _fake)
implement("scan_carried_backward", CarriedCall, BACKWARD_CONTRACT, fake_gradients)
register(Derivative("scan_carried", CarriedCall, reference.scan_carried, outputs=2, saved=1))
autocast_activations("scan_carried", activations=(0, 1, 6))


def _papers_flops(x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, codes, table, *args) -> int:  # type: ignore
    return scan_flops(x, A, dt_weight, codes, table, papers=True)


@flop_formula("scan_carried", _papers_flops)
def _flops(  # type: ignore
    x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, codes, table, *args, **kwargs
) -> int:
    return scan_flops(x, A, dt_weight, codes, table)
