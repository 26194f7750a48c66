"""The matrices of a scan are the scan: applied to its input they give its output, in every layer and direction."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vimzoo.explain import TokenMixing, scan_matrices, token_mixing
from vimzoo.layers import SelectiveSSM
from vimzoo.layers.attentive import AttentiveScan
from vimzoo.layers.ss2d import SS2D
from vimzoo.models.vmamba import VMamba
from vimzoo.ops import CROSS, ScanPath, pad_paths, path_arguments, scan_paths
from vimzoo.ops.scan.call import ScanCall

PARITY = 3e-5
SMALL_V2: dict[str, Any] = dict(embed_dim=32, depths=[1], d_state=4, window=8, rank=6, num_tokens=10)
SIDES = {"test_vim": 64, "test_vmamba": 32, "test_mambair": 12}


def close(found: Tensor, expected: Tensor) -> bool:
    """Within the tolerance of the package, as a share of the spread."""
    return bool((found - expected).abs().max() <= PARITY * expected.std())


def call_of(paths: list[ScanPath], grid: tuple[int, int], own: bool, states: int, shared: bool) -> ScanCall:
    """Inputs of a scan with steps as large as trained ones."""
    torch.manual_seed(0)
    (height, width), directions, channels, rank = grid, len(paths), 6, 3
    length, count = height * width, 1 if shared else directions
    codes, table = path_arguments(paths, height, width)
    return ScanCall(
        torch.randn(2, length, directions, channels) if own else torch.randn(2, length, channels),
        torch.randn(2, length, directions, rank + 2 * states),
        -torch.rand(count, channels, states) * 8 - 0.01,
        torch.randn(count, channels, rank),
        torch.randn(count, channels) - 2,
        torch.randn(count, channels),
        None,
        codes,
        table,
        height,
        width,
        True,
    )


def applied(matrices: Tensor, x: Tensor) -> Tensor:
    """``(B, K, C, L, L)`` times the tokens ``(B, L, C)`` or ``(B, L, K, C)``, summed over directions."""
    own = x if x.dim() == 4 else x.unsqueeze(2).expand(-1, -1, matrices.shape[1], -1)
    return torch.einsum("bkcts,bskc->btc", matrices, own.to(matrices.dtype))


PATHS = {
    "cross": list(CROSS),
    "snake": [ScanPath.snake(), ScanPath.hilbert()],
    "padded windows": list(pad_paths((ScanPath("row"), ScanPath.window(3).reversed()))),
    "strided": [ScanPath.stride(2), ScanPath.stride(2, 1, 1)],
}


@pytest.mark.parametrize("paths", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("own", "states", "shared"), [(False, 5, False), (True, 1, True)])
def test_matrix_times_input_is_output(paths: list[ScanPath], own: bool, states: int, shared: bool) -> None:
    """Also where paths are padded or leave tokens out."""
    grid = (4, 5)
    call = call_of(paths, grid, own, states, shared)
    out = scan_paths(call.x, call.x_dbl, call.A, call.dt_weight, call.dt_bias, call.D, paths=paths, grid=grid)
    every = scan_matrices(call, range(call.channels))
    assert every.shape == (2, len(paths), 6, 20, 20) and close(applied(every, call.x), out)
    assert torch.equal(every[:, :, [3, 1]], scan_matrices(call, [3, 1]))
    torch.testing.assert_close(scan_matrices(call), every.mean(2))


def test_a_long_sequence_of_large_steps() -> None:
    """Sums of 2,000 steps lose the digits of a single one in float32."""
    torch.manual_seed(0)
    layer = SelectiveSSM(4, d_state=2, dt_rank=2)
    nn.init.constant_(layer.dt_bias, 1.0)
    x = torch.randn(1, 2000, 4)
    (found,) = token_mixing(Scan(layer), x, channels=[2])
    out = Scan(layer)(x)
    assert close(torch.einsum("bkcts,bsc->btc", found.matrices, x[..., 2:3]), out[..., 2:3])


class Scan(nn.Module):
    """A scan forward, and nothing else."""

    def __init__(self, ssm: SelectiveSSM) -> None:
        super().__init__()
        self.ssm = ssm

    def forward(self, x: Tensor) -> Tensor:
        return self.ssm(x, None, [0], None, 1, x.shape[1])


def seen(model: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, Tensor | None, Tensor]]:
    """Input, gate and output of every scan, by the name of its layer."""
    found = {}
    handles = [
        layer.register_forward_hook(
            lambda _, given, out, name=name: found.update({name: (given[0], given[1], out)})
        )
        for name, layer in model.named_modules()
        if isinstance(layer, SelectiveSSM)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("name", "side"), SIDES.items())
@torch.no_grad()
def test_every_layer_of_a_model(name: str, side: int) -> None:
    """Layers are named, in the order in which they ran; their matrices give what the layers gave before the gate."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.randn(2, 3, side, side)
    scans, mixings = seen(model, images), token_mixing(model, images, channels=[0, 5])
    assert [mixing.layer for mixing in mixings] == list(scans) and len(scans) > 1
    for mixing in mixings:
        x, z, out = scans[mixing.layer]
        assert mixing.grid[0] * mixing.grid[1] == x.shape[1]
        expected = out[..., [0, 5]]
        found = applied(mixing.matrices, x[..., [0, 5]])
        assert close(found if z is None else found * nn.functional.silu(z[..., [0, 5]]), expected)


def test_directions_are_told_apart() -> None:
    """A token takes from those that its path visits before it, and from itself."""
    torch.manual_seed(0)
    layer = nn.Sequential(SS2D(8, paths=[ScanPath("row"), ScanPath("column").reversed()])).eval()
    (mixing,) = token_mixing(layer, torch.randn(1, 3, 5, 8))
    assert mixing.layer == "0.ssm" and mixing.grid == (3, 5)
    rows, columns = (mixing.matrices[0] != 0).unflatten(-1, (3, 5))
    centre = 7
    assert rows[centre].tolist() == [[True] * 5, [True] * 3 + [False] * 2, [False] * 5]
    assert columns[centre].T.tolist() == [
        [False] * 3,
        [False] * 3,
        [False, True, True],
        [True] * 3,
        [True] * 3,
    ]


@torch.no_grad()
def test_sorted_tokens_are_in_the_order_of_the_map() -> None:
    """MambaIRv2 scans its tokens sorted; a token takes only from tokens of its class or of one before."""
    torch.manual_seed(0)
    model = timm.create_model("mambairv2_light_x2", **SMALL_V2).eval()
    scan = next(part for part in model.modules() if isinstance(part, AttentiveScan))
    caught: dict[str, Tensor] = {}
    scan.order.register_forward_hook(lambda _, given, order: caught.update(route=given[0], order=order))
    scan.ssm.register_forward_hook(lambda _, given, out: caught.update(x=given[0], y=out))
    (mixing,) = token_mixing(model, torch.rand(2, 3, 8, 8), channels=[1])
    back = caught["order"].argsort(-1)
    x, y = (caught[name].gather(1, back[..., None].expand_as(caught[name]))[..., 1:2] for name in "xy")
    assert len(caught["route"].unique()) > 2 and close(applied(mixing.matrices, x), y)
    later = caught["route"][:, :, None] < caught["route"][:, None, :]
    assert not mixing.matrices[:, 0, 0][later].any()


def test_cascades_run_two_scans_per_layer() -> None:
    torch.manual_seed(0)
    model = VMamba(depths=(1,), dims=8, num_classes=0, paths="cascade").eval()
    found = token_mixing(model, torch.randn(1, 3, 8, 12))
    assert [(m.layer, m.grid) for m in found] == [
        ("stages.0.blocks.0.ss2d.ssm", (1, 3)), ("stages.0.blocks.0.ss2d.ssm", (1, 2)),
    ]  # fmt: skip


def test_compiled_models_are_run_as_they_are() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vim").eval()
    images = torch.randn(1, 3, 64, 64)
    (plain,), (compiled,) = (
        token_mixing(made, images, layers="*blocks.1.*")
        for made in (model, torch.compile(model, backend="eager"))
    )
    assert isinstance(plain, TokenMixing) and torch.equal(plain.matrices, compiled.matrices)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_what_is_refused() -> None:
    model, images = timm.create_model("test_vim").eval(), torch.randn(1, 3, 64, 64)
    with pytest.raises(
        ValueError, match=r"`layers`='stages\*': no scan matches; scans ran in blocks\.0\.mixer"
    ):
        token_mixing(model, images, layers="stages*")
    with pytest.raises(ValueError, match="no scan ran in Conv2d"):
        token_mixing(nn.Conv2d(3, 3, 3), images)
    with pytest.raises(ValueError, match=r"`channels`: expected numbers in 0\.\.63, got 64"):
        token_mixing(model, images, channels=[0, 64])


def test_memory_is_counted_before_any_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = timm.create_model("test_vmamba").eval(), torch.randn(1, 3, 64, 64)
    monkeypatch.setattr("vimzoo.explain.mixing.scan_matrices", lambda *_: pytest.fail("was made"))
    with pytest.raises(
        ValueError, match=r"4 scans of up to 256 tokens need 0\.3 GiB, more than 0\.1; choose"
    ):
        token_mixing(model, images, max_bytes=2**27)
