"""Puts our operators into the place of standard ones, for runtimes that have ours.

Norms, depthwise convolutions and gates become single nodes, as their kernels compute them. Maps keep their channels
last, and our operators read parts of tensors where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from .scan_function import DOMAIN, NAME
from .scan_function.definition import INPUTS

PARTS = {"CausalConv1d": 0, "Depthwise": 0, "Norm": 3, NAME: INPUTS.index("z")}
"""Our operators, and which input may be a part of the channels of a tensor: ``first`` says where it begins."""
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""What brings the channels of a map to the last place, and to the first one."""
_PLANES, _BACK = (1, 2, 0, 3), (2, 0, 1, 3)
"""What brings the directions of a sequence, ``(K, B, L, D)``, to the third place, and back."""
_POINTWISE = ("Gelu", "Relu", "Sigmoid")


def use_own_operators(model: ir.Model) -> None:
    """Rewrite a model for our operators.

    Args:
        model: As `vimzoo.exporting.lowering.WITH_OWN_OPERATORS` lowers it.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model.opset_imports.setdefault(DOMAIN, 1)
    rewriting = _Rewriting(model.graph)
    for node in list(model.graph):
        if node.op_type == "LayerNormalization":
            rewriting.norm(node)
        elif node.op_type == "Conv":
            rewriting.convolution(node)
        elif node.op_type in _POINTWISE:
            rewriting.pointwise(node)
        elif node.op_type == "Transpose":
            rewriting.transposition(node)
        elif node.op_type == "CausalConv1d":
            rewriting.planes(node.outputs[0])
    for node in list(model.graph):
        if node.domain == DOMAIN:
            _read_part(node, PARTS[node.op_type])
    RemoveUnusedNodesPass()(model)


class _Rewriting:
    """A graph while it is rewritten, node by node in its order.

    Attributes:
        last: Maps ``(B, C, H, W)`` -> the same with channels last.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.last: dict[ir.Value, ir.Value] = {}

    def put(
        self,
        before: ir.Node,
        kind: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Value,
        axes: Sequence[int] = (0, 1, 2, 3),
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """A new node's output, with the dtype of ``like`` and these of its axes."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=1)
        (output,) = node.outputs
        output.name, output.type = f"{like.name}_{kind.lower()}", like.type
        if like.shape is not None:
            output.shape = ir.Shape([like.shape[i] for i in axes[: len(like.shape)]])
        self.graph.insert_before(before, node)
        return output

    def constant(self, name: str, array: Any) -> ir.Value:
        """A new constant, unless there is one of this name."""
        if name not in self.graph.initializers:
            tensor = ir.tensor(array)
            shape, kind = ir.Shape(tensor.numpy().shape), ir.TensorType(tensor.dtype)
            value = ir.Value(name=name, const_value=tensor, shape=shape, type=kind)
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def replace(self, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        """Give the readers of a map ``old`` a map with channels last; those that see through it get that itself."""
        moved = self.put(node, "Transpose", [new], old, perm=_FIRST)
        ir.convenience.replace_all_uses_with(old, moved)
        self.last[moved] = new

    def channels_last(self, node: ir.Node, x: ir.Value) -> ir.Value:
        """``x`` with channels last."""
        return self.last.get(x) or self.put(node, "Transpose", [x], x, _LAST, perm=_LAST)

    def transposition(self, node: ir.Node) -> None:
        (x,), (y,) = node.inputs, node.outputs
        perm = tuple(node.attributes.get_ints("perm", ()))
        if x is not None and perm == _FIRST:
            self.last[y] = x
        elif x in self.last and perm == _LAST and not y.is_graph_output():
            ir.convenience.replace_all_uses_with(y, self.last[x])

    def pointwise(self, node: ir.Node) -> None:
        (x,), (y,) = node.inputs, node.outputs
        if x in self.last and y.consumers() and not y.is_graph_output():
            attributes = {name: each.value for name, each in node.attributes.items()}
            self.replace(node, y, self.put(node, node.op_type, [self.last[x]], y, _LAST, **attributes))

    def norm(self, node: ir.Node) -> None:
        """LayerNorm over channels, with a gate that multiplies it if nothing else reads it."""
        x, weight, bias = (*node.inputs, None)[:3]
        y = node.outputs[0]
        axes = 0 if x is None or x.shape is None else len(x.shape)
        along_last = node.attributes.get_int("axis", -1) in (-1, axes - 1)
        if not _is_float(x) or not axes or not along_last or len(node.outputs) > 1:
            return
        place, gate = node, None
        if (
            len(y.consumers()) == 1
            and not y.is_graph_output()
            and (product := y.consumers()[0]).op_type == "Mul"
        ):
            others = [_silu_of(each) for each in product.inputs if each is not None and each is not y]
            if others and others[0] is not None and others[0].shape == y.shape is not None:
                place, y, gate = product, product.outputs[0], others[0]
        eps = node.attributes.get_float("epsilon", 1e-5)
        inputs = [x, weight, bias, gate][: 4 if gate else 3]
        new = self.put(place, "Norm", inputs, y, range(axes), DOMAIN, eps=eps)
        ir.convenience.replace_all_uses_with(y, new, replace_graph_outputs=True)

    def convolution(self, node: ir.Node) -> None:
        """A depthwise convolution of 3 x 3, with SiLU if nothing else reads it; or a product of channels."""
        x, weight, bias = (*node.inputs, None)[:3]
        y = node.outputs[0]
        if (
            x is None
            or not _is_float(x)
            or y.is_graph_output()
            or weight is None
            or not weight.is_initializer()
        ):
            return
        outputs, each, *kernel = (size for size in weight.shape or () if isinstance(size, int))
        dilations, group = _numbers_of(node, "dilations", 1), node.attributes.get_int("group", 1)
        plain = set(_numbers_of(node, "strides", 1)) == {1} and len(kernel) == 2
        automatic = node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
        if not plain or automatic:
            return
        depthwise = each == 1 and outputs == group and kernel == [3, 3] and dilations[0] == dilations[1]
        if depthwise and _numbers_of(node, "pads", 0) == [dilations[0]] * 4:
            silu = _silu_after(y)
            result = y if silu is None else silu
            if result.is_graph_output():
                return
            if x not in self.last and not any(_moves_last(reader) for reader in result.consumers()):
                return
            new = self.put(
                node, "Depthwise", [self.channels_last(node, x), weight, bias], y, _LAST, DOMAIN,
                silu=int(silu is not None), dilation=dilations[0],
            )  # fmt: skip
            self.replace(node, result, new)
        elif x in self.last and kernel == [1, 1] and group == 1 and not any(_numbers_of(node, "pads", 0)):
            known = ir.convenience.get_const_tensor(weight)
            assert known is not None
            turned = self.constant(f"{weight.name}_turned", known.numpy()[:, :, 0, 0].T.copy())
            new = self.put(node, "MatMul", [self.last[x], turned], y, _LAST)
            if bias is not None:
                new = self.put(node, "Add", [new, bias], y, _LAST)
            self.replace(node, y, new)

    def planes(self, planes: ir.Value) -> None:
        """Let what takes one direction of ``(B, L, K, D)``, transposed from ``planes``, take it from there."""
        for moved in planes.consumers():
            if moved.op_type != "Transpose" or tuple(moved.attributes.get_ints("perm")) != _PLANES:
                continue
            for taken in moved.outputs[0].consumers():
                if taken.op_type == "Transpose" and tuple(taken.attributes.get_ints("perm")) == _BACK:
                    ir.convenience.replace_all_uses_with(taken.outputs[0], planes)
                    continue
                axes = taken.inputs[3] if taken.op_type == "Slice" and len(taken.inputs) == 4 else None
                squeezes = taken.outputs[0].consumers()
                if _numbers(axes) != [2] or any(
                    each.op_type != "Squeeze" or len(each.inputs) != 2 or _numbers(each.inputs[1]) != [2]
                    for each in squeezes
                ):
                    continue
                zero = self.constant("first_axis", [0])
                taken.replace_input_with(0, planes)
                taken.replace_input_with(3, zero)
                taken.outputs[0].shape = None
                for each in squeezes:
                    each.replace_input_with(1, zero)


def _read_part(node: ir.Node, place: int) -> None:
    """Give a node the tensor that its input is a part of."""
    part = node.inputs[place] if place < len(node.inputs) else None
    split = None if part is None else part.producer()
    if part is None or split is None or split.op_type != "Split" or split.inputs[0] is None:
        return
    whole, sizes = split.inputs[0], [None if each.shape is None else each.shape[-1] for each in split.outputs]
    known = [size for size in sizes if isinstance(size, int)]
    axes = len(whole.shape or ())
    if axes == 0 or split.attributes.get_int("axis", 0) % axes != axes - 1 or len(known) < len(sizes):
        return
    node.replace_input_with(place, whole)
    node.attributes["first"] = ir.AttrInt64("first", sum(known[: split.outputs.index(part)]))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _silu_of(value: ir.Value) -> ir.Value | None:
    """``z`` where the value is ``z sigmoid(z)``."""
    node = value.producer()
    if node is None or node.op_type != "Mul" or len(value.consumers()) != 1:
        return None
    for z, other in (node.inputs, node.inputs[::-1]):
        maker = None if other is None else other.producer()
        if maker is not None and maker.op_type == "Sigmoid" and maker.inputs[0] is z:
            return z
    return None


def _silu_after(value: ir.Value) -> ir.Value | None:
    """``value sigmoid(value)`` if that is all that is made of a value."""
    readers = {node.op_type: node for node in value.consumers()}
    product = readers.get("Mul")
    if set(readers) != {"Mul", "Sigmoid"} or product is None or value.is_graph_output():
        return None
    return product.outputs[0] if _silu_of(product.outputs[0]) is value else None


def _moves_last(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == _LAST


def _numbers_of(node: ir.Node, name: str, default: int) -> list[int]:
    """An attribute of a convolution of maps."""
    return list(node.attributes.get_ints(name, [default] * (4 if name == "pads" else 2)))


def _numbers(value: ir.Value | None) -> list[int] | None:
    """A constant's numbers."""
    known = None if value is None else ir.convenience.get_const_tensor(value)
    return None if known is None else known.numpy().ravel().tolist()
