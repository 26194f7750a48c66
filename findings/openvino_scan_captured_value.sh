#!/usr/bin/env bash
# OpenVINO's ONNX frontend and a Scan whose body refers to a value of the graph around it.
#
# ONNX lets the body of a Scan use names of the enclosing graph. Two files of one recurrence differ in where the decay
# comes from: an initialiser, or Exp of an initialiser. Both are valid (the checker passes, onnxruntime runs both, with
# equal results), so OpenVINO should read both.
# Seen with OpenVINO 2026.4.1: the initialiser is fine; the computed value ends in an OpConversionFailure that counts
# too few inputs of the node. Exporters should fold such values, or pass them in as states.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
"$folder/env/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

LENGTH, WIDTH = 5, 4
LOGARITHM = np.full(WIDTH, -0.5, np.float32)


def value(name: str, *shape: int):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def recurrence(computed: bool) -> bytes:
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "decay"], ["kept"]),
            helper.make_node("Add", ["kept", "step"], ["next"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        "body",
        [value(name, WIDTH) for name in ("state", "step")],
        [value(name, WIDTH) for name in ("next", "out")],
    )
    scan = helper.make_node("Scan", ["start", "steps"], ["last", "states"], body=body, num_scan_inputs=1)
    if computed:
        nodes = [helper.make_node("Exp", ["logarithm"], ["decay"]), scan]
        constant = numpy_helper.from_array(LOGARITHM, "logarithm")
    else:
        nodes = [scan]
        constant = numpy_helper.from_array(np.exp(LOGARITHM), "decay")
    graph = helper.make_graph(
        nodes,
        "recurrence",
        [value("start", WIDTH), value("steps", LENGTH, WIDTH)],
        [value("last", WIDTH), value("states", LENGTH, WIDTH)],
        [constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__}")
inputs = {"start": np.zeros(WIDTH, np.float32), "steps": np.ones((LENGTH, WIDTH), np.float32)}
core = openvino.Core()
answers = {}
for computed in (False, True):
    file = recurrence(computed)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["states"], inputs)
    try:
        seen = core.compile_model(core.read_model(file), "CPU")(inputs)["states"]
        answers[computed] = "equal" if np.allclose(seen, expected, rtol=1e-5) else "different"
    except RuntimeError as error:
        answers[computed] = f"{type(error).__name__}: " + " ".join(str(error).split())
    print(f"decay {'computed' if computed else 'stored'}: onnxruntime {expected[:, 0]}, OpenVINO: {answers[computed]}")

print("expected: equal, twice")
unchanged = answers[False] == "equal" and "number of scan node inputs" in answers[True].lower()
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
