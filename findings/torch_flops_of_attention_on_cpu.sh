#!/usr/bin/env bash
# torch.utils.flop_counter.FlopCounterMode and scaled_dot_product_attention on the CPU.
#
# Attention over L tokens with heads of width D takes 4 * heads * L * L * D operations forward and twice as many backward,
# on any device. On `meta` the counter says so.
# Seen with torch 2.14.1: on the CPU it says 0 for both, without a warning, since the fused CPU kernel has no formula.
# GFLOPs of a vision transformer counted on the CPU lack its attention; a comparison with a network without attention
# should count on `meta`, or under sdpa_kernel(SDPBackend.MATH).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.14.1
"$folder/env/bin/python" - <<'PY'
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

HEADS, LENGTH, WIDTH = 3, 197, 64  # one layer of deit_tiny at 224 px


def count(device: str) -> tuple[int, int]:
    q = torch.zeros(1, HEADS, LENGTH, WIDTH, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = scaled_dot_product_attention(q, q, q)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


print(f"torch {torch.__version__}")
operations = 4 * HEADS * LENGTH**2 * WIDTH
expected = operations, 2 * operations
seen = {device: count(device) for device in ("meta", "cpu")}
with sdpa_kernel(SDPBackend.MATH):
    seen["cpu, unfused"] = count("cpu")
print(f"expected forward, backward: {expected}")
for place, counts in seen.items():
    print(f"{place}: {counts}")
unchanged = seen == {"meta": expected, "cpu": (0, 0), "cpu, unfused": expected}
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
