#!/usr/bin/env bash
# OpenVINO's CPU plugin and the order of two factors in the body of an ONNX Scan of fixed sizes.
#
# The recurrence state = decay[t] * state + step[t], scanned over t, written twice: once as Mul(decay, state), once as
# Mul(state, decay). Multiplication commutes, so both files should give the same numbers, as they do in onnxruntime.
# Seen with OpenVINO 2026.4.1: Mul(decay, state), whose first operand is the slice of a scanned input, is wrong by
# several times the spread of the result, without a warning; Mul(state, decay) is exact.
# Exporters should put the state first.
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
from onnx import TensorProto, helper

LENGTH, WIDTH = 50, 64


def value(name: str, *shape: int):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def recurrence(factors: list[str]) -> bytes:
    body = helper.make_graph(
        [
            helper.make_node("Mul", factors, ["kept"]),
            helper.make_node("Add", ["kept", "step"], ["next"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        "body",
        [value(name, WIDTH) for name in ("state", "decay", "step")],
        [value(name, WIDTH) for name in ("next", "out")],
    )
    scan = helper.make_node(
        "Scan", ["start", "decays", "steps"], ["last", "states"], body=body, num_scan_inputs=2
    )
    graph = helper.make_graph(
        [scan],
        "recurrence",
        [value("start", WIDTH), value("decays", LENGTH, WIDTH), value("steps", LENGTH, WIDTH)],
        [value("last", WIDTH), value("states", LENGTH, WIDTH)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__}")
rng = np.random.default_rng(0)
inputs = {
    "start": np.zeros(WIDTH, np.float32),
    "decays": rng.uniform(0.5, 1, (LENGTH, WIDTH)).astype(np.float32),
    "steps": rng.normal(size=(LENGTH, WIDTH)).astype(np.float32),
}
state, rows = inputs["start"], []
for decay, step in zip(inputs["decays"], inputs["steps"]):
    state = decay * state + step
    rows.append(state)
truth = np.stack(rows)

errors = {}
core = openvino.Core()
for factors in (["state", "decay"], ["decay", "state"]):
    file = recurrence(factors)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["states"], inputs)
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    seen = compiled(inputs)["states"]
    name = f"Mul({', '.join(factors)})"
    errors[name] = [float(abs(y - truth).max() / truth.std()) for y in (expected, seen)]
    print(f"{name}: error as a share of the spread: onnxruntime {errors[name][0]:.1e}, OpenVINO {errors[name][1]:.1e}")

print("expected: every error below 1e-5")
(right, wrong) = errors.values()
unchanged = max(*right, wrong[0]) < 1e-5 and wrong[1] > 0.1
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
