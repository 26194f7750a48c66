"""``vimzoo::scan_paths`` in ONNX's standard operators, for runtimes that start one small operator after another.

The definition is `vimzoo.ops.reference.scan_paths`. What is pointwise in time is computed for all steps at once,
outside the loop. The narrow rows ``[dt | B | C]`` are brought into the order of the path, and step sizes are computed
from them there. Channels are the last axis, so that every operator runs along a long one.

- With many states, a loop over the steps holds states ``(B, K, N, D)``, and the sum over states is a matrix product.
  Small states of images are scanned in `blocks` of steps.
- With one state, an image's rows (for paths along columns: its columns) are scanned side by side for their last states,
  these are carried from row to row, and the rows are scanned again from the states before them: ``2 W + H`` steps on
  ``H`` times as much for ``H W`` tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import onnx_ir as ir

from vimzoo.ops.paths.path import COLUMN

from .blocks import outputs_by_blocks
from .loops import loop, outputs_of_one_state, outputs_of_states, states_before, whole_rows
from .nodes import Nodes, Value
from .softplus import softplus

DOMAIN, NAME = "vimzoo", "ScanPaths"
OPSET = 18
"""The oldest version of the standard operators that has all of ours."""
INPUTS = ("x", "x_dbl", "rates", "dt_weight", "dt_bias", "height", "width", "D", "z", "table")
"""As `vimzoo.ops.scan_paths` takes them, except that ``rates (K, N, D)`` and ``dt_weight (K, R, D)`` have the channels
last. The last three may be missing."""


@dataclass(frozen=True)
class Kind:
    """What of a call decides which nodes compute it; sizes do not.

    Attributes:
        codes: Of the paths.
        states: N.
        own_inputs: x is ``(B, L, K, D)``.
        own_rows: x_dbl is ``(B, L, K, R+2N)`` rather than ``(B, L, 1, R+2N)``.
        shared: Names of parameters whose first axis is 1 though K is not.
        skip, gate, table: Whether D, z and a table are given.
        merge: Add the directions.
        blocks: Scan blocks of steps; see `vimzoo.exporting.scan_function.blocks`.
        dtype: Of the activations.
        work: Of the arithmetic.
    """

    codes: tuple[int, ...]
    states: int
    own_inputs: bool
    own_rows: bool
    shared: tuple[str, ...]
    skip: bool
    gate: bool
    table: bool
    merge: bool
    blocks: bool
    dtype: ir.DataType
    work: ir.DataType

    @property
    def overload(self) -> str:
        """The name of this kind among the overloads of the function."""
        flags = [name for name, value in asdict(self).items() if value is True]
        shared = [f"one_{name}" for name in self.shared]
        return "_".join(
            ["paths", *map(str, self.codes), f"n{self.states}", self.dtype.name.lower(), *flags, *shared]
        )


class _Scan:
    """The function while it is written. ``order`` means the axes of values in a path's order.

    Steps come first: ``(T, B, C)``. With `rows`, values keep the order of the image, ``(steps of a row, B, rows, C)``,
    and loops walk backward where the path does.
    """

    def __init__(self, kind: Kind, inputs: dict[str, Value]) -> None:
        self.kind, self.inputs, self.op = kind, inputs, Nodes(kind.work)
        op, works = self.op, kind.work == kind.dtype
        self.x, self.x_dbl = (
            inputs[name] if works else op.Cast(inputs[name], to=kind.work) for name in ("x", "x_dbl")
        )
        self.height, self.width = (op.Reshape(inputs[name], op.ints(1)) for name in ("height", "width"))
        self.rows = kind.states == 1 and kind.merge and not kind.table
        channels = op.Shape(inputs["dt_bias"], start=1)
        self.image = op.Concat(op.ints(0), self.height, self.width, op.ints(-1), axis=0)
        self.tokens = op.Concat(op.ints(0, -1), channels, axis=0)
        self.channels = channels
        self._placed: dict[tuple[Value, bool], Value] = {}
        self._narrow: dict[int, Value] = {}

    def parameter(self, name: str, k: int) -> Value:
        """A parameter of direction k, in the dtype of the arithmetic."""
        one = name in self.kind.shared
        return self.op.Gather(self.inputs[name], self.op.index(0 if one else k), axis=0)

    def row(self, k: int) -> Value:
        """``x_dbl`` of direction k, ``(B, L, R+2N)``."""
        if not self.kind.own_rows:
            k = 0
        if k not in self._narrow:
            self._narrow[k] = self.op.take(self.x_dbl, 2, k)
        return self._narrow[k]

    def u(self, k: int) -> Value:
        """``x`` of direction k, ``(B, L, D)``."""
        return self.op.take(self.x, 2, k) if self.kind.own_inputs else self.x

    def along(self, values: Value, k: int) -> Value:
        """``(B, L, C)`` in the order of path k."""
        op, code = self.op, self.kind.codes[k]
        columns = code >= COLUMN
        key = (values, columns)
        if key not in self._placed:
            self._placed[key] = self._forward(values, columns)
        placed = self._placed[key]
        if self.kind.table:
            return op.Gather(placed, op.Gather(self.inputs["table"], op.index(k), axis=0), axis=0)
        return op.flip(placed, 0) if code & 1 and not self.rows else placed

    def _forward(self, values: Value, columns: bool) -> Value:
        op = self.op
        # Keeps onnxruntime from joining this transposition with one outside to one that it has no fast code for
        values = op.Reshape(values, op.ints(0, 0, -1))
        if self.kind.table:  # -1, a pad, is the last row, of zeros
            return op.Pad(op.Transpose(values, perm=[1, 0, 2]), op.ints(0, 0, 0, 1, 0, 0))
        if self.rows:
            return op.Transpose(
                op.Reshape(values, self.image), perm=[1, 0, 2, 3] if columns else [2, 0, 1, 3]
            )
        if columns:
            image = op.Transpose(op.Reshape(values, self.image), perm=[2, 1, 0, 3])
            values = op.Reshape(image, op.Concat(op.ints(-1), op.Shape(image, start=2), axis=0))
            return values
        return op.Transpose(values, perm=[1, 0, 2])

    def back(self, values: Value, columns: bool) -> Value:
        """The inverse of `_forward` for closed forms, ``(B, L, D)``."""
        op = self.op
        if self.rows:
            image = op.Transpose(values, perm=[1, 0, 2, 3] if columns else [1, 2, 0, 3])
            return op.Reshape(image, self.tokens)
        if not columns:
            return op.Transpose(values, perm=[1, 0, 2])
        split = op.Concat(self.width, self.height, op.Shape(values, start=1), axis=0)
        return op.Reshape(op.Transpose(op.Reshape(values, split), perm=[2, 1, 0, 3]), self.tokens)

    def step_sizes(self, row: Value, k: int) -> Value:
        """delta of direction k before softplus, from its rows, both in the path's order."""
        low_rank = self.op.part(row, -1, 0, -2 * self.kind.states)
        parameters = (self.parameter(name, k) for name in ("dt_weight", "dt_bias"))
        product = self.op.Gemm(self.op.Flatten(low_rank, axis=-1), *parameters)
        shape = self.op.Concat(self.op.Shape(row, end=-1), self.channels, axis=0)
        return self.op.Reshape(product, shape)

    def write(self) -> list[Value]:
        """All of it; returns the outputs."""
        op, kind = self.op, self.kind
        merged = self.merged()
        if kind.gate:
            z = self.inputs["z"] if kind.work == kind.dtype else op.Cast(self.inputs["z"], to=kind.work)
            merged = op.Mul(merged, op.Mul(z, op.Sigmoid(z)))
        return [merged if kind.work == kind.dtype else op.Cast(merged, to=kind.dtype)]

    def merged(self) -> Value:
        op, kind = self.op, self.kind
        count = range(len(kind.codes))
        N, rows = kind.states, [self.along(self.row(k), k) for k in count]
        deltas = [self.step_sizes(row, k) for k, row in enumerate(rows)]
        us = [self.along(self.u(k), k) for k in count]
        entries = us
        if not kind.blocks:
            deltas = [softplus(op, delta) for delta in deltas]
            entries = [op.Mul(delta, u) for delta, u in zip(deltas, us, strict=True)]
        Bs = [op.part(row, -1, -2 * N, -N) for row in rows]
        Cs = [op.part(row, -1, -N, None) for row in rows]
        if self.rows:
            return self.sum_over_closed_forms(self.side_by_side(deltas, entries, Bs, Cs))
        delta, entry = (op.Unsqueeze(op.stack(values, 2), op.ints(3)) for values in (deltas, entries))
        C = op.Unsqueeze(op.stack(Cs, 2), op.ints(3))
        if N == 1:
            rates = op.Concat(*(op.Unsqueeze(self.parameter("rates", k), op.ints(0)) for k in count), axis=0)
            decay = op.Exp(op.Mul(delta, rates))
            entry = op.Mul(entry, op.Unsqueeze(op.stack(Bs, 2), op.ints(4)))
            start = op.zeros(op.Shape(entry, start=1))
            y = loop(op, outputs_of_one_state, [start], [decay, entry, C])[1]
        else:
            B = op.Unsqueeze(op.stack(Bs, 2), op.ints(4))
            start = op.zeros(op.Concat(op.Shape(B, start=1, end=4), self.channels, axis=0))
            scanned, outer = [delta, entry, B, C], self.inputs["rates"]
            if kind.blocks:
                y = outputs_by_blocks(op, start, scanned, outer)
            else:
                y = loop(op, outputs_of_states, [start], scanned, outer)[1]
        y = op.Squeeze(y, op.ints(3))  # (T, B, K, D)
        if not kind.merge:
            if kind.skip:
                D = op.Concat(*(op.Unsqueeze(self.parameter("D", k), op.ints(0)) for k in count), axis=0)
                y = op.Add(y, op.Mul(op.stack(us, 2), D))
            return op.Transpose(y, perm=[1, 2, 0, 3])
        ys = [op.take(y, 2, k) for k in count]
        return self.sum_over_table(ys, us) if kind.table else self.sum_over_closed_forms(ys)

    def side_by_side(
        self, deltas: list[Value], entries: list[Value], Bs: list[Value], Cs: list[Value]
    ) -> list[Value]:
        """The outputs of all paths for N = 1. "Row" is a column where the paths run along columns."""
        op, codes = self.op, self.kind.codes
        ys: dict[int, Value] = {}
        for columns in (False, True):
            group = [k for k, code in enumerate(codes) if (code >= COLUMN) == columns]
            if not group:
                continue
            rates = [op.Reshape(self.parameter("rates", k), op.ints(-1)) for k in group]
            # (steps, B, rows, D)
            decay = [op.Exp(op.Mul(deltas[k], rate)) for k, rate in zip(group, rates, strict=True)]
            entry = [op.Mul(entries[k], Bs[k]) for k in group]
            turned = [bool(codes[k] & 1) for k in group]
            starts = [op.zeros(op.Shape(entry[0], start=1))] * (2 * len(group))
            scanned = [*decay, *entry, *(deltas[k] for k in group)]
            whole = loop(op, whole_rows, starts, scanned, outputs=0, backward=turned * 3)
            ends, sums = whole[: len(group)], whole[len(group) :]
            totals = [op.Exp(op.Mul(s, rate)) for s, rate in zip(sums, rates, strict=True)]
            rows = [op.Transpose(value, perm=[1, 0, 2]) for value in (*totals, *ends)]
            starts = [op.zeros(op.Shape(rows[0], start=1))] * len(group)
            carried = loop(op, states_before, starts, rows, outputs=len(group), backward=turned * 3)
            starts = [op.Transpose(value, perm=[1, 0, 2]) for value in carried[len(group) :]]
            scanned = [*decay, *entry, *(Cs[k] for k in group)]
            found = loop(op, outputs_of_one_state, starts, scanned, outputs=len(group), backward=turned * 4)
            ys |= zip(group, found[len(group) :], strict=True)
        return [ys[k] for k in range(len(codes))]

    def sum_over_closed_forms(self, ys: list[Value]) -> Value:
        """The sum of outputs in the orders of the paths, with D u, ``(B, L, D)``."""
        op, kind = self.op, self.kind
        parts = []
        for columns in (False, True):
            group = [k for k, code in enumerate(kind.codes) if (code >= COLUMN) == columns]
            turned = [op.flip(ys[k], 0) if kind.codes[k] & 1 and not self.rows else ys[k] for k in group]
            if turned:
                parts.append(self.back(op.total(turned), columns))
        if kind.skip and kind.own_inputs:
            parts += [op.Mul(self.u(k), self.parameter("D", k)) for k in range(len(kind.codes))]
        elif kind.skip:
            D = op.total([self.parameter("D", k) for k in range(len(kind.codes))])
            parts.append(op.Mul(self.x, D))
        return op.total(parts)

    def sum_over_table(self, ys: list[Value], us: list[Value]) -> Value:
        """The same for a table, which may leave tokens out or visit them twice; D u counts as often."""
        op, kind = self.op, self.kind
        x = op.Transpose(self.u(0), perm=[1, 0, 2])
        length = op.Shape(x, end=1)
        total = op.zeros(op.Concat(op.Add(length, op.ints(1)), op.Shape(x, start=1), axis=0))
        for k, (y, u) in enumerate(zip(ys, us, strict=True)):
            if kind.skip:
                y = op.Add(y, op.Mul(u, self.parameter("D", k)))
            tokens = op.Cast(op.Gather(self.inputs["table"], op.index(k), axis=0), to=ir.DataType.INT64)
            tokens = op.Where(op.Less(tokens, op.index(0)), op.Squeeze(length, op.ints(0)), tokens)
            total = op.ScatterND(total, op.Unsqueeze(tokens, op.ints(1)), y, reduction="add")
        return op.Transpose(op.part(total, 0, 0, -1), perm=[1, 0, 2])


def function(kind: Kind, opset: int = OPSET) -> ir.Function:
    """The function that computes calls of a kind, with the inputs `INPUTS` and one output.

    It has the attributes ``codes`` and ``merge``, which it does not read; readers with a scan of their own do.
    """
    inputs = {name: ir.Value(name=name) for name in INPUTS}
    scan = _Scan(kind, inputs)
    outputs = scan.write()
    outputs[0].name = "y"
    graph = ir.Graph(
        list(inputs.values()), outputs, nodes=scan.op.nodes, opset_imports={"": opset}, name=NAME
    )
    attributes = [
        ir.Attr("codes", ir.AttributeType.INTS, None),
        ir.Attr("merge", ir.AttributeType.INT, None),
    ]
    return ir.Function(DOMAIN, NAME, kind.overload, graph=graph, attributes=attributes)
