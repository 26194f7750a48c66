"""What the loops of exported files may not have."""

from collections.abc import Iterator
from typing import Any

ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}


def faults(graph: Any, outer: frozenset = frozenset()) -> Iterator[str]:
    """What OpenVINO 2026.4.1 computes wrongly in the bodies of loops without a word, or does not read.

    Args:
        graph: Of a model or function.
        outer: What a loop may use from outside, beside initialisers.
    """
    for node in graph:
        if node.op_type != "Scan":
            continue
        body = node.attributes["body"].as_graph()
        count = node.attributes["num_scan_inputs"].as_int()
        slices, inside = set(body.inputs[len(body.inputs) - count :]), set(body.inputs)
        for step in body:
            if step.op_type in ARITHMETIC and step.inputs[0] in slices:
                yield f"{step.op_type} begins with a slice of a scanned input"
            computed = [v for v in step.inputs if v not in inside and not (v in outer or v.is_initializer())]
            yield from (f"{step.op_type} uses {value.name}, which is computed outside" for value in computed)
            inside |= set(step.outputs)
        yield from faults(body, outer)
