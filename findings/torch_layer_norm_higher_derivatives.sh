#!/usr/bin/env bash
# torch.nn.functional.layer_norm and derivatives beyond the second, or backward over forward mode.
#
# The formulas of its forward-mode derivative and of its double backward pass use the mean and the deviation that the
# forward pass has saved. These depend on the input, but are treated as constants.
# Seen with torch 2.14.1: grad(jvp) and third derivatives are wrong by a percent here, without an error. Second
# derivatives and jvp(grad) are right, and so is everything for the same formula in plain operations.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.14.1
"$folder/env/bin/python" - <<'PY'
import sys

import torch
from torch import Tensor
from torch.func import grad, jvp

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
SCALE, POINT, DIRECTION = torch.randn(5), torch.randn(3, 5), torch.randn(3, 5)


def fused(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, (5,), SCALE)


def plain(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * SCALE


def errors(norm) -> list[float]:
    def loss(x: Tensor) -> Tensor:
        return norm(x).pow(3).sin().sum()

    def product(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
        return x, torch.autograd.grad((first * DIRECTION).sum(), x, create_graph=True)[0]

    x, second = product(POINT)
    (third,) = torch.autograd.grad((second * DIRECTION).sum(), x)
    ahead, behind = (product(POINT + step * DIRECTION)[1].detach() for step in (1e-5, -1e-5))
    pairs = (
        (jvp(grad(loss), (POINT,), (DIRECTION,))[1], second),
        (grad(lambda x: jvp(loss, (x,), (DIRECTION,))[1])(POINT), second),
        (third, (ahead - behind) / 2e-5),
    )
    return [((found - wanted).norm() / wanted.norm()).item() for found, wanted in pairs]


print(f"torch {torch.__version__}; relative errors of jvp(grad), grad(jvp) and the third derivative")
found = {"layer_norm": errors(fused), "plain operations": errors(plain)}
for name, values in found.items():
    print(f"{name}: {', '.join(f'{value:.1e}' for value in values)}")
right = [value < 1e-5 for values in found.values() for value in values]
unchanged = right == [True, False, False, True, True, True]
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
