"""The loops of the scan: ONNX ``Scan`` nodes with bodies of a few operators.

Two rules hold for every body, because OpenVINO's plugin for CPUs (2026.4.1) computes other bodies wrongly without a
word, or does not read them; see ``findings/``. No arithmetic has the slice of a scanned input as its first operand:
the state comes first, or a parameter. And a body uses nothing from outside that is computed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import onnx_ir as ir

from .nodes import Nodes, Value

Body = Callable[..., tuple[Value, ...]]


def loop(
    op: Nodes,
    body: Body,
    starts: Sequence[Value],
    scanned: Sequence[Value],
    *outer: Value,
    outputs: int = 1,
    backward: Sequence[bool] = (),
) -> Sequence[Value]:
    """A ``Scan`` over the first axis of ``scanned``.

    Args:
        op: Where the node goes.
        body: Given nodes, the states, a slice of each of ``scanned``, and ``outer``; returns new states and outputs.
        starts: The first states.
        scanned: Of equal length.
        outer: Values that every step uses: inputs of the function.
        outputs: How many outputs a step has.
        backward: Which of ``scanned``, and then which of the outputs, are walked from their ends; by default none.

    Returns:
        The last states, and the outputs of all steps along a new first axis.
    """
    inner = Nodes(op.dtype, f"loop_{len(op.nodes)}.")
    type_ = ir.TensorType(op.dtype)
    names = [f"state_{i}" for i in range(len(starts))] + [f"step_{i}" for i in range(len(scanned))]
    inputs = [ir.Value(name=inner.prefix + name, type=type_) for name in names]
    results = body(inner, *inputs, *outer)
    for value in results:
        value.type = type_
    graph = ir.Graph(inputs, results, nodes=inner.nodes, name="step")
    attributes: dict[str, Any] = {"body": graph, "num_scan_inputs": len(scanned)}
    if any(backward):
        attributes["scan_input_directions"] = [int(b) for b in backward[: len(scanned)]]
        if outputs:
            attributes["scan_output_directions"] = [int(b) for b in backward[len(scanned) :]]
    return op.node("Scan", [*starts, *scanned], attributes, len(starts) + outputs)


def _thirds(values: Sequence[Value]) -> tuple[Sequence[Value], ...]:
    count = len(values) // 3
    return values[:count], values[count : 2 * count], values[2 * count :]


def _advance(op: Nodes, state: Value, decay: Value, entry: Value) -> Value:
    return op.Add(op.Mul(state, decay), entry)


def last_states(op: Nodes, *values: Value) -> tuple[Value, ...]:
    """``state = state * decay + entry`` for several states; no outputs.

    Args:
        op: Of the body.
        values: All states, all decays, all entries.
    """
    states, decays, entries = _thirds(values)
    return tuple(map(partial(_advance, op), states, decays, entries))


def whole_rows(op: Nodes, *values: Value) -> tuple[Value, ...]:
    """The same, and sums: all states, sums so far, decays, entries, and what is added to the sums.

    The product of the decays follows from the sum of step sizes. Multiplied step by step it would become subnormal,
    which is slow.
    """
    count = len(values) // 5
    states = last_states(op, *values[:count], *values[2 * count : 4 * count])
    return *states, *map(op.Add, values[count : 2 * count], values[4 * count :])


def states_before(op: Nodes, *values: Value) -> tuple[Value, ...]:
    """The same; the outputs are the states before each step."""
    return *last_states(op, *values), *map(op.Identity, _thirds(values)[0])


def outputs_of_one_state(op: Nodes, *values: Value) -> tuple[Value, ...]:
    """The same; the outputs are the new states times ``C``, of which there are as many as states, after the entries."""
    count = len(values) // 4
    states = last_states(op, *values[: 3 * count])
    return *states, *map(op.Mul, states, values[3 * count :])


def outputs_of_states(
    op: Nodes, state: Value, delta: Value, delta_u: Value, B: Value, C: Value, rates: Value
) -> tuple[Value, ...]:
    """The whole step, for many states of a channel, which are summed as a matrix product.

    Args:
        op: Of the body.
        state: ``(B, K, N, D)``.
        delta, delta_u: ``(B, K, 1, D)``.
        B, C: ``(B, K, N, 1)`` and ``(B, K, 1, N)``.
        rates: ``(K or 1, N, D)``.
    """
    decay = op.Exp(op.Mul(rates, delta))
    state = op.Add(op.Mul(state, decay), op.MatMul(B, delta_u))
    return state, op.MatMul(C, state)
