"""Formulas for counters of floating-point operations.

torch's ``FlopCounterMode`` needs nothing: the formulas are registered with it, and so is that of torch's fused
attention on the CPU, which torch itself (2.14) counts as 0. Counters that read a traced graph, such as fvcore's, take
`graph_handles`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

Formula = Callable[..., int]
Handle = Callable[[Sequence[Any], Sequence[Any]], int]
_PAPERS: dict[str, Formula] = {}
_NORMS = ("layer_norm", "batch_norm", "group_norm")
_SCRIPTED = {"_traced_scan": "scan_paths", "_traced_conv": "causal_conv1d"}
"""Scripted functions that a traced graph calls, and the operators that they call with their first arguments."""


def flop_formula(op: str, papers: Formula | None = None) -> Callable[[Formula], Formula]:
    """Register the cost of ``vimzoo::op`` with ``torch.utils.flop_counter``: a multiply-add is 2 operations.

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
    """Functions that count one node of a traced graph as papers do, by the operators' names in the graph.

    ``fvcore.nn.FlopCountAnalysis(model, x).set_op_handle(**graph_handles())`` then counts whole models. Included are
    torch's attention, which fvcore does not know, and its norms, which count 0 here as in torch's counter; fvcore alone
    counts 5 operations per element.
    """

    def handle_of(op: str) -> Handle:
        return lambda inputs, outputs: papers_flops(op, *map(_shape_or_value, inputs))

    def called(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        function, *arguments = inputs
        op = _SCRIPTED.get(function.node().s("name"))
        return papers_flops(op, *map(_shape_or_value, arguments)) if op else 0

    def attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        return _attention(*(value.type().sizes() for value in inputs[:3])) // 2

    def nothing(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        return 0

    ours: dict[str, Handle] = {f"vimzoo::{op}": handle_of(op) for op in _PAPERS}
    torchs: dict[str, Handle] = {f"aten::{norm}": nothing for norm in _NORMS}
    return ours | torchs | {"prim::CallFunction": called, "aten::scaled_dot_product_attention": attention}


def _shape_or_value(value: Any) -> Any:
    """The shape of a tensor in a ``torch.jit`` graph; of other constants their value."""
    if value.type().kind() == "TensorType":
        return value.type().sizes()
    if value.node().kind() == "prim::ListConstruct":
        return [item.toIValue() for item in value.node().inputs()]
    return value.toIValue()


def _papers_linear(x: Sequence[int], weight: Sequence[int], *args: Any) -> int:
    return prod(x[:-1]) * weight[-2] * weight[-1]


_PAPERS["linear"] = _papers_linear  # torch's counter sees the matrix product inside


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Of shapes ``(..., tokens, channels)``: both products, a multiply-add as 2."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(grad: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * _attention(*args)


for _op, _formula in (
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, _attention),
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, _attention_backward),
):
    if _op not in flop_registry:
        register_flop_formula(_op)(_formula)
