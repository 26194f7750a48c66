"""Writes ONNX nodes by calling their operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Value = ir.Value


class Nodes:
    """A list of nodes that grows: ``op.Add(a, b)`` appends one and returns its output.

    Args:
        dtype: Of the floating-point constants.
        prefix: Of all names. Those of a loop's body may not be names outside.
    """

    def __init__(self, dtype: ir.DataType, prefix: str = "") -> None:
        self.nodes: list[ir.Node] = []
        self.dtype = dtype
        self.prefix = prefix
        self._constants: dict[tuple, Value] = {}

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        def append(*inputs: Value | None, **attributes: Any) -> Value:
            return self.node(operator, inputs, attributes, 1)[0]

        return append

    def node(
        self, operator: str, inputs: Sequence[Value | None], attributes: dict[str, Any], outputs: int
    ) -> Sequence[Value]:
        """Append a node with several outputs."""
        name = f"{self.prefix}{operator}_{len(self.nodes)}"
        node = ir.node(operator, inputs, attributes, num_outputs=outputs, name=name)
        for index, output in enumerate(node.outputs):
            output.name = f"{name}.{index}" if index else name
        self.nodes.append(node)
        return node.outputs

    def _constant(self, array: np.ndarray) -> Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.Constant(value=ir.tensor(array))
        return self._constants[key]

    def number(self, value: float) -> Value:
        """A floating-point constant."""
        return self._constant(np.array(value, self.dtype.numpy()))

    def ints(self, *values: int) -> Value:
        """A list of whole numbers."""
        return self._constant(np.array(values, np.int64))

    def index(self, value: int) -> Value:
        """A whole number, which as an index drops the axis."""
        return self._constant(np.array(value, np.int64))

    def part(self, values: Value, axis: int, begin: int, end: int | None) -> Value:
        """``values[begin:end]`` along an axis."""
        stop = np.iinfo(np.int64).max if end is None else end
        return self.Slice(values, self.ints(begin), self.ints(stop), self.ints(axis))

    def take(self, values: Value, axis: int, index: int) -> Value:
        """``values[index]`` along an axis, which goes."""
        return self.Squeeze(self.part(values, axis, index, index + 1), self.ints(axis))

    def flip(self, values: Value, axis: int) -> Value:
        """``values`` backward along an axis."""
        first, before_all = self.ints(-1), self.ints(np.iinfo(np.int64).min + 1)
        return self.Slice(values, first, before_all, self.ints(axis), first)

    def stack(self, parts: Sequence[Value], axis: int) -> Value:
        """``parts`` side by side along a new axis."""
        return self.Concat(*(self.Unsqueeze(part, self.ints(axis)) for part in parts), axis=axis)

    def total(self, parts: Sequence[Value]) -> Value:
        """The sum of ``parts``."""
        result = parts[0]
        for part in parts[1:]:
            result = self.Add(result, part)
        return result

    def zeros(self, shape: Value) -> Value:
        """Zeros of a shape that is a value itself."""
        return self.ConstantOfShape(shape, value=ir.tensor(np.zeros(1, self.dtype.numpy())))
