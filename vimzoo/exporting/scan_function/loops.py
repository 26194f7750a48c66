"""The loops of the scan: ONNX ``Scan`` nodes with bodies of a few operators.

Two rules hold for every body, because OpenVINO's plugin for CPUs (2026.4.1) computes other bodies wrongly without a
word, or does not read them; see ``findings/``. No arithmetic has the slice of a scanned input as its first operand:
the state comes first, or a parameter. And a body uses nothing from outside that is computed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from .nodes import Nodes, Value

Body = Callable[..., tuple[Value, ...]]


def loop(op: Nodes, body: Body, start: Value, scanned: Sequence[Value], *outer: Value) -> tuple[Value, ...]:
    """A ``Scan`` over the first axis of ``scanned``.

    Args:
        op: Where the node goes.
        body: Given nodes, the state, a slice of each of ``scanned``, and ``outer``; returns the new state and outputs.
        start: The first state.
        scanned: Of equal length.
        outer: Values that every step uses: inputs of the function.

    Returns:
        The last state and the outputs of all steps, along a new first axis.
    """
    inner = Nodes(op.dtype, f"loop_{len(op.nodes)}.")
    type_ = ir.TensorType(op.dtype)
    names = ["state", *(f"step_{i}" for i in range(len(scanned)))]
    inputs = [ir.Value(name=inner.prefix + name, type=type_) for name in names]
    outputs = body(inner, *inputs, *outer)
    for value in outputs:
        value.type = type_
    graph = ir.Graph(inputs, outputs, nodes=inner.nodes, name="step")
    attributes = {"body": graph, "num_scan_inputs": len(scanned)}
    return tuple(op.node("Scan", [start, *scanned], attributes, len(outputs)))


def _advance(op: Nodes, state: Value, decay: Value, entry: Value) -> Value:
    return op.Add(op.Mul(state, decay), entry)


def last_state(op: Nodes, state: Value, decay: Value, entry: Value) -> tuple[Value, ...]:
    """``state = state * decay + entry``; no outputs."""
    return (_advance(op, state, decay, entry),)


def states_before(op: Nodes, state: Value, decay: Value, entry: Value) -> tuple[Value, ...]:
    """The same; the outputs are the states before each step."""
    return _advance(op, state, decay, entry), op.Identity(state)


def states_after(op: Nodes, state: Value, decay: Value, entry: Value) -> tuple[Value, ...]:
    """The same; the outputs are the states after each step."""
    state = _advance(op, state, decay, entry)
    return state, op.Identity(state)


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
