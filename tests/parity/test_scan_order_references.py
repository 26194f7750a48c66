"""Scan orders against the official code: VMamba, EfficientVMamba and PlainMamba by index, LocalMamba by its values."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fill import load, mismatch, model_input, state_dict
from torch import Tensor

from vimzoo.ops import BIDIRECTIONAL, CROSS, FORWARD, ScanPath, scan_paths
from vimzoo.ops.paths.path import ATROUS, SNAKES, pad_paths, path_table

REFERENCES = Path(__file__).parent / "references"
SETS = {
    "cross2d": CROSS,
    "unidi": (FORWARD,) * 4,
    "bidi": tuple(path for path in BIDIRECTIONAL for _ in range(2)),
    "efficient_vmamba_step2 (-1 = zero padding)": ATROUS,
    "plain_mamba": SNAKES,
}
ORDERS = load(REFERENCES / "vmamba" / "ops_scan_orders.json.gz")["orders"]


@pytest.mark.parametrize("grid", ORDERS)
def test_orders(grid: str) -> None:
    height, width = map(int, grid.split("x"))
    for name, expected in ORDERS[grid].items():
        if "direction_code" not in name:  # PlainMamba's marks of the steps, which are no order
            assert [path.tokens(height, width).tolist() for path in SETS[name]] == expected, name


def local_ss2d(reference: dict[str, Any], window: ScanPath) -> Tensor:
    """LocalVMamba's first SS2D, whose directions are rows and windows of 7 both ways, on a map that 7 does not divide.

    Each direction is put back in place, weighted by a gate of its own mean, and added.
    """
    state = state_dict(reference)
    names = ("patch_embed.", "layers.0.blocks.0.op.", "layers.0.blocks.0.")
    prefix = {short: name for short, name in zip(("stem.", "op.", ""), names, strict=True)}
    state = {
        short + name.removeprefix(long): value
        for name, value in state.items()
        for short, long in prefix.items()
        if name.startswith(long)
    }

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    x = F.conv2d(model_input(reference), state["stem.0.weight"], state["stem.0.bias"], stride=4)
    x = norm(x.permute(0, 2, 3, 1), "stem.2")
    batch, height, width, _ = x.shape
    x, z = linear(norm(x, "norm"), "op.in_proj").chunk(2, -1)
    weight, bias = state["op.conv2d.weight"], state["op.conv2d.bias"]
    x = F.silu(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(weight)))
    x = x.permute(0, 2, 3, 1).flatten(1, 2)
    length, channels = x.shape[1:]
    paths = pad_paths((FORWARD, FORWARD.reversed(), window, window.reversed()))
    x_dbl = torch.einsum("bld,krd->blkr", x, state["op.x_proj_weight"])
    A, D = -state["op.A_logs"].exp().view(4, channels, -1), state["op.Ds"].view(4, channels)
    y = scan_paths(
        x, x_dbl, A, state["op.dt_projs_weight"], state["op.dt_projs_bias"], D,
        paths=paths, grid=(height, width), merge=False,
    )  # fmt: skip
    table = path_table(paths, height, width)
    assert table is not None and table.shape[1] > length
    total = torch.zeros(batch, length, channels)
    for k, tokens in enumerate(table.long()):
        placed = torch.zeros(batch, length + 1, channels).index_add(1, tokens % (length + 1), y[:, k])[:, :-1]
        mean = norm(placed, "op.multi_scan.attn.norm").mean(1, keepdim=True)
        gate = linear(
            F.gelu(linear(mean, "op.multi_scan.attn.global_reduce")), "op.multi_scan.attn.channel_select"
        )
        total = total + placed * gate.sigmoid()
    y = norm(total, "op.out_norm").view_as(z) * F.silu(z)
    return linear(y, "op.out_proj")


@pytest.mark.parametrize("name", ["local_vssm_micro_64", "local_vssm_micro_nonsquare_fixed"])
def test_windows_and_their_pads(name: str) -> None:
    reference = load(REFERENCES / "local" / f"{name}.json.gz")
    recorded = reference["intermediates"]["layers.0.blocks.0.op"]
    assert mismatch(local_ss2d(reference, ScanPath.window(7)), recorded) < 3e-5
    # what it would notice: columns inside the windows, and pads that are not stepped on
    assert mismatch(local_ss2d(reference, ScanPath.window(7, inside=ScanPath("column"))), recorded) > 3e-4
    unpadded = pad_paths((ScanPath.window(7, pads=False), ScanPath.window(7)))[0]
    assert mismatch(local_ss2d(reference, unpadded), recorded) > 3e-5
