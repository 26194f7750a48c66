#!/usr/bin/env bash
# onnxruntime's fusion of an integer product with its scales and a bias, without zero points.
#
# The product of two int8 matrices is made float, multiplied by a scale for each row and each column, and a bias is
# added: MatMulInteger, Cast, Mul, Add, where the scales are first multiplied by each other. With zero points left out,
# which the operator allows, onnxruntime 1.32.0 replaces the nodes by one MatMulIntegerToFloat that multiplies the bias
# by the scale of the row, without a warning. With optimisations off the same file is right.
# Exporters should multiply by one scale after the other, which is not fused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/env/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROWS, INPUTS, OUTPUTS = 5, 48, 64
rng = np.random.default_rng(0)
whole = rng.integers(-127, 128, (ROWS, INPUTS)).astype(np.int8)
weight = rng.integers(-127, 128, (INPUTS, OUTPUTS)).astype(np.int8)
of_rows = rng.uniform(0.5, 2, (ROWS, 1)).astype(np.float32)
of_columns = rng.uniform(0.5, 2, OUTPUTS).astype(np.float32)
bias = rng.normal(size=OUTPUTS).astype(np.float32) * 1e5
product = (whole.astype(np.int64) @ weight.astype(np.int64)) * (of_rows * of_columns).astype(np.float64)

nodes = [
    helper.make_node("MatMulInteger", ["whole", "weight"], ["sums"]),
    helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["of_rows", "of_columns"], ["scales"]),
    helper.make_node("Mul", ["floats", "scales"], ["product"]),
    helper.make_node("Add", ["product", "bias"], ["y"]),
]
constants = {"weight": weight, "of_columns": of_columns, "bias": bias}
graph = helper.make_graph(
    nodes,
    "product",
    [
        helper.make_tensor_value_info("whole", TensorProto.INT8, [ROWS, INPUTS]),
        helper.make_tensor_value_info("of_rows", TensorProto.FLOAT, [ROWS, 1]),
    ],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, OUTPUTS])],
    [numpy_helper.from_array(array, name) for name, array in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.checker.check_model(model, full_check=True)

print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
print("expected: both errors below 1e-5 of the spread")
levels = onnxruntime.GraphOptimizationLevel
found = {}
for name, level in (("without", levels.ORT_DISABLE_ALL), ("with", levels.ORT_ENABLE_ALL)):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found[name],) = session.run(None, {"whole": whole, "of_rows": of_rows})
    error = abs(found[name] - product - bias).max() / product.std()
    print(f"{name} optimisations: error {error:.1e} of the spread")
scaled = abs(found["with"] - product - of_rows * bias).max() / product.std()
print(f"with optimisations, from the product with the bias times the scale of its row: {scaled:.1e}")
unchanged = scaled < 1e-5 and abs(found["without"] - product - bias).max() / product.std() < 1e-5
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
