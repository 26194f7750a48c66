"""Many states of few channels in blocks of steps.

A state of a few thousand numbers takes longer to start an operator on than to compute. What is pointwise in time is
therefore computed for `BLOCK` steps at once, which a processor's cache holds, and two operators are left to each step.
"""

from __future__ import annotations

from collections.abc import Sequence

from .loops import loop
from .nodes import Nodes, Value
from .softplus import softplus

BLOCK = 32
"""Steps. In onnxruntime 8 and 16 are slower; 64 and 128 are as fast for one image, and slower for eight."""
MOST = 4096
"""Numbers of a state, up to which blocks are used. With 2,880 they are faster, with 12,288 slower."""


def _decayed(op: Nodes, state: Value, decay: Value, entry: Value) -> tuple[Value, ...]:
    """``state = state * decay + entry``; the output is the product, so that nothing is copied."""
    product = op.Mul(state, decay)
    return op.Add(product, entry), product


def _block(
    op: Nodes, state: Value, steps: Value, u: Value, B: Value, C: Value, rates: Value
) -> tuple[Value, ...]:
    delta = softplus(op, steps)
    entry = op.Mul(op.Mul(delta, u), B)
    state, products = loop(op, _decayed, [state], [op.Exp(op.Mul(rates, delta)), entry])
    return state, op.MatMul(C, op.Add(products, entry))


def outputs_by_blocks(op: Nodes, start: Value, scanned: Sequence[Value], rates: Value) -> Value:
    """``y (T, B, K, 1, D)`` of many states.

    Args:
        op: Where the nodes go.
        start: The state before the first step, ``(B, K, N, D)``.
        scanned: Step sizes before softplus, and u, ``(T, B, K, 1, D)``; B, ``(T, B, K, N, 1)``; C,
            ``(T, B, K, 1, N)``. They are padded to whole blocks.
        rates: ``(K or 1, N, D)``, an input of the function.
    """
    length, block = op.Shape(scanned[0], end=1), op.ints(BLOCK)
    missing = op.Mod(op.Neg(length), block)
    pads = op.Concat(op.ints(0, 0, 0, 0, 0), missing, op.ints(0, 0, 0, 0), axis=0)
    blocks = [
        op.Reshape(op.Pad(value, pads), op.Concat(op.ints(-1), block, op.Shape(value, start=1), axis=0))
        for value in scanned
    ]
    y = loop(op, _block, [start], blocks, rates)[1]
    y = op.Reshape(y, op.Concat(op.ints(-1), op.Shape(y, start=2), axis=0))
    return op.Slice(y, op.ints(0), length, op.ints(0))
