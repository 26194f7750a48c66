"""What an operator costs, for counters of floating-point operations.

torch's ``FlopCounterMode`` needs nothing: the formulas are registered with it. Counters that read a traced graph, such
as fvcore's, take `graph_handles`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Formula = Callable[..., int]
Handle = Callable[[Sequence[Any], Sequence[Any]], int]
_PAPERS: dict[str, Formula] = {}
_SCRIPTED = {"_traced_scan": "scan_paths", "_traced_conv": "causal_conv1d"}
"""Scripted functions that a traced graph calls, and the operators that they call with their first arguments."""


def flop_formula(op: str, papers: Formula | None = None) -> Callable[[Formula], Formula]:
    """Tell ``torch.utils.flop_counter`` what one call of ``vimzoo::op`` costs: a multiply-add is 2 operations.

    The backward operator counts twice that, as a matrix product does. Formulas take the operator's arguments with
    shapes in place of tensors.

    Args:
        papers: the same in papers' and fvcore's convention, in which a multiply-add is 1; half if not given.
    """

    def register(formula: Formula) -> Formula:
        forward, backward = (getattr(torch.ops.vimzoo, name) for name in (op, f"{op}_backward"))
        first = forward.default._schema.arguments[0].name
        gradients = [argument.name for argument in backward.default._schema.arguments].index(first)

        def twice(*args: Any, **kwargs: Any) -> int:
            return 2 * formula(*args[gradients:], **kwargs)

        register_flop_formula(forward)(formula)
        register_flop_formula(backward)(twice)
        _PAPERS[op] = papers or (lambda *args: formula(*args) // 2)
        return formula

    return register


def papers_flops(op: str, *args: Any) -> int:
    """Operations of one call of ``vimzoo::op`` as papers count them: a multiply-add is 1.

    Args:
        args: the operator's, with shapes in place of tensors.
    """
    return _PAPERS[op](*args)


def graph_handles() -> dict[str, Handle]:
    """By the names that the operators have in a traced graph, functions which count one node as papers do.

    ``fvcore.nn.FlopCountAnalysis(model, x).set_op_handle(**graph_handles())`` then counts whole models.
    """

    def handle_of(op: str) -> Handle:
        return lambda inputs, outputs: papers_flops(op, *map(_shape_or_value, inputs))

    def called(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        function, *arguments = inputs
        op = _SCRIPTED.get(function.node().s("name"))
        return papers_flops(op, *map(_shape_or_value, arguments)) if op else 0

    return {f"vimzoo::{op}": handle_of(op) for op in _PAPERS} | {"prim::CallFunction": called}


def _shape_or_value(value: Any) -> Any:
    """The shape of a tensor in a ``torch.jit`` graph; of other constants their value."""
    if value.type().kind() == "TensorType":
        return value.type().sizes()
    if value.node().kind() == "prim::ListConstruct":
        return [item.toIValue() for item in value.node().inputs()]
    return value.toIValue()


def _papers_linear(x: Sequence[int], weight: Sequence[int], *args: Any) -> int:
    rows = 1
    for size in x[:-1]:
        rows *= size
    return rows * weight[-2] * weight[-1]


_PAPERS["linear"] = _papers_linear  # torch's counter sees the matrix product inside
