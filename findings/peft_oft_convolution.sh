#!/usr/bin/env bash
# peft's OFT adapter on a Conv2d whose kernel is larger than 1 x 1.
#
# A fresh OFT adapter is the identity rotation, so wrapping a layer should not change what the network computes, and
# merging should not change it either. LoRA on the same layer is shown beside it.
# Seen with peft 0.21.2: on a 1 x 1 convolution that holds. On a 3 x 3 convolution the wrapped network is off by about
# ten times the spread of its output, without a warning, and jumps back when the adapter is merged: the overlapping
# patches of the unfolded input are summed up again instead of being averaged. Training sees other numbers than the
# merged network gives. Choose 1 x 1 convolutions and linear layers for OFT, or another adapter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.14.1 peft==0.21.2
"$folder/env/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, OFTConfig, get_peft_model
from torch import nn


@torch.no_grad()
def differences(config, kernel: int) -> tuple[float, float]:
    """Wrapped and merged network against the plain one, as shares of the spread of its output."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(8, 8, kernel, padding=kernel // 2)).eval()
    x = torch.randn(2, 8, 16, 16)
    expected = plain(x)
    wrapped = get_peft_model(plain, config).eval()
    before = wrapped(x)
    after = wrapped.merge_and_unload()(x)
    return tuple(float((y - expected).abs().max() / expected.std()) for y in (before, after))


print(f"peft {version('peft')}, torch {torch.__version__}")
seen = {}
for name, adapter in {
    "OFT": lambda: OFTConfig(target_modules=["0"], oft_block_size=8, r=0),
    "LoRA": lambda: LoraConfig(target_modules=["0"], r=2),
}.items():
    for kernel in (1, 3):
        seen[name, kernel] = before, after = differences(adapter(), kernel)
        print(f"fresh {name}, {kernel} x {kernel} kernel: off by {before:.1e} wrapped, {after:.1e} merged")
print("expected: every difference below 1e-5")
wrapped = seen["OFT", 3][0]
others = [y for key, pair in seen.items() for y in pair if (key, y) != (("OFT", 3), wrapped)]
unchanged = wrapped > 1 and max(others) < 1e-5
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
