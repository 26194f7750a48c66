#!/usr/bin/env bash
# torch.nn.BatchNorm2d on the CPU, one image, and tokens made of its result: the gradients are wrong.
#
# A convolutional stem ends in a batch norm, and `.flatten(2).transpose(1, 2)` makes tokens of its map. The gradient that
# comes back has the strides of tokens: dense, channels last. The gradient of the norm's bias is its sum over all
# positions.
# Seen with torch 2.14.1: with a batch of one image, in training and in evaluation mode, the gradients of bias and input
# are wrong by more than their own size, without a warning; gradcheck says so, too. The kernel takes the values for those
# of a map with channels first. Two images are right, and so is one if the map is made contiguous between norm and tokens,
# or is channels last from the start. Recorded gradients of MILA's official code (one image) contain this error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.14.1
"$folder/env/bin/python" - <<'PY'
import sys

import torch
from torch import nn

CHANNELS, SIDE = 8, 3


class Contiguous(nn.Module):
    """The same map; its gradient is made contiguous on the way back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        if y.requires_grad:
            y.register_hook(lambda grad: grad.contiguous(memory_format=torch.contiguous_format).clone())
        return y


def errors(images: int, training: bool, between: nn.Module) -> tuple[float, float]:
    """Of the gradients of bias and input, against float64 sums and numerical derivatives, in their own size."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(CHANNELS, track_running_stats=not training).double().train(training)
    x = torch.randn(images, CHANNELS, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(images, SIDE * SIDE, CHANNELS, dtype=torch.float64)

    def score(x: torch.Tensor) -> torch.Tensor:
        return (between(norm(x)).flatten(2).transpose(1, 2) * weight).sum()

    score(x).backward()
    numeric = torch.empty_like(x)
    with torch.no_grad():
        for place in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=torch.float64)
            step[place] = 1e-5
            numeric.view(-1)[place] = (score(x + step.view_as(x)) - score(x - step.view_as(x))) / 2e-5
    bias = weight.sum((0, 1))
    return (
        ((norm.bias.grad - bias).norm() / bias.norm()).item(),
        ((x.grad - numeric).norm() / numeric.norm()).item(),
    )


print(f"torch {torch.__version__}")
right = wrong = True
for images in (1, 2):
    for training in (False, True):
        for between in (nn.Identity(), nn.Sequential(Contiguous())):
            found = errors(images, training, between)
            broken = images == 1 and isinstance(between, nn.Identity)
            print(
                f"{images} image(s), {'training' if training else 'evaluation'}, "
                f"{'gradient as it is' if isinstance(between, nn.Identity) else 'gradient made contiguous'}: "
                f"bias {found[0]:.1e}, input {found[1]:.1e} (expected below 1e-6)"
            )
            if broken:
                wrong &= min(found) > 0.1
            else:
                right &= max(found) < 1e-6
unchanged = right and wrong
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
