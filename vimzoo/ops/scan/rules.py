"""What the scans along paths accept: axes, dtypes and settings, declared once for both operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..paths.path import COLUMN_REVERSED, ROW, TABLE
from ..runtime.contract import FLOATING, WHOLE, Given, exactly, like
from .call import ScanCall, check_states

PARAMETERS = "Tensor x, Tensor x_dbl, Tensor A, Tensor dt_weight, Tensor dt_bias, Tensor? D, Tensor? z"
SETTINGS = "int[] codes, Tensor? table, SymInt height, SymInt width, bool merge"
"""Arguments in both operators' schemas."""


def check_grid(grid: Sequence[int], length: int) -> None:
    """Raise ``ValueError`` unless the sizes of a grid, such as ``(H, W)``, multiply to the number of tokens."""
    tokens, negative = 1, False
    for size in grid:
        tokens, negative = tokens * size, negative or size < 0
    if tokens != length or negative:
        known = {2: "(H, W) with H * W =", 3: "(D, H, W) with D * H * W ="}
        expected = known.get(len(grid), "sizes with the product")
        raise ValueError(f"grid: expected {expected} {length}, got ({', '.join(map(str, grid))})")


def _gives_states(given: Given) -> bool:
    return ScanCall(*(given[name] for name in ScanCall.names(backward=True))).gives_states


def _row_width(given: Given) -> int:
    """Of ``x_dbl``: R + 2 N, or R + 1 where it has no C and N is 1."""
    N, R = given["A"].shape[-1], given["dt_weight"].shape[-1]
    return R + 1 if N == 1 and given["x_dbl"].shape[-1:] == (R + 1,) else R + 2 * N


def check_settings(given: Given) -> None:
    """Check paths, grid and gate, and that states have neither gate nor skip; raises ``ValueError``."""
    codes, table = given["codes"], given["table"]
    known = COLUMN_REVERSED if table is None else TABLE
    if not codes or not all(ROW <= code <= known for code in codes):
        raise ValueError(
            f"codes: expected one or more of {ROW}..{known}, {'no' if table is None else 'a'} table, got {codes}"
        )
    check_grid((given["height"], given["width"]), given["x"].shape[1])
    if given["z"] is not None and not given["merge"]:
        raise ValueError("z: the gate multiplies the merged output; expected None with merge=False")
    if _gives_states(given) and not (given["D"] is None and given["z"] is None):
        name = "z" if given["D"] is None else "D"
        raise ValueError(f"{name}: x_dbl has no C, so the output is the states; expected None, got a tensor")


def check_backward(given: Given) -> None:
    """`check_settings`, and the rank of the gradient and the number of saved states; raises ``ValueError``."""
    check_settings(given)
    grad, states = given["grad"], given["states"]
    call = ScanCall(*(given[name] for name in ScanCall.names(backward=True)))
    if grad.dim() != len(call.output_shape):
        layout = "(B, L, D)" if call.merge else "(B, K, T, D)"
        raise ValueError(f"grad: expected {layout} with merge={call.merge}, got {tuple(grad.shape)}")
    check_states(states, call.states_size)


def by_state(x_dbl: Tensor, A: Tensor, dt_weight: Tensor) -> bool:
    """Whether the output is several states of a channel; a traced graph of torch.fx never has that."""
    if not torch.jit.is_scripting() and not isinstance(x_dbl, Tensor):
        return False
    if x_dbl.dim() != 4 or A.dim() != 3 or dt_weight.dim() != 3:
        return False
    return A.shape[-1] > 1 and x_dbl.shape[-1] == dt_weight.shape[-1] + A.shape[-1]


def scan_flops(
    x: Sequence[int], A: Sequence[int], dt_weight: Sequence[int], codes: Sequence[int], table: Sequence[int] | None,
    papers: bool = False,
) -> int:  # fmt: skip
    """Operations of a call, from shapes.

    Per element and step: 9 N for the recurrence (VMamba's convention), 2 for D, 2 R for the step sizes; in papers'
    convention 9 N for the recurrence, 1 each for D and the gate, R for the step sizes.
    """
    steps = x[1] if table is None else table[1]
    return x[0] * steps * x[-1] * len(codes) * (9 * A[-1] + 2 + (1 if papers else 2) * dt_weight[-1])


TENSORS = {
    "x": ("B L D | B L K D", FLOATING),
    "A": ("K? D N", FLOATING),
    "dt_weight": ("K? D R", FLOATING),
    "x_dbl": ("B L K? R+2N", like("x")),
    "dt_bias": ("K? D", FLOATING),
    "D": ("K? D", FLOATING),
    "z": ("B L D", like("x")),
    "table": ("K T", WHOLE),
}
SIZES = {
    "K": lambda given: len(given["codes"]),
    "R+2N": _row_width,
    "T": lambda given: given["x"].shape[1] if given["table"] is None else given["table"].shape[-1:].numel(),
}
SAVED = {
    "grad": ("B L D | B K T D", like("x")),
    "states": ("S", exactly(lambda given: torch.float32)),
}
"""What backward operators take besides."""
