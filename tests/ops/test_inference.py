"""What runs in place of torch's operators in inference computes the same, and only where nothing has to see them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from vimzoo.layers import SS2D, CausalConv, VSSBlock
from vimzoo.layers.mambair import RestorationBlock
from vimzoo.layers.map_embed import MapDownsample, MapStem
from vimzoo.layers.mlp import Mlp
from vimzoo.layers.plain import apply_conv, apply_norm, convolved
from vimzoo.layers.ssm import SelectiveSSM
from vimzoo.layers.vss_block import infer_blocks
from vimzoo.ops import inference, linear, mixers, use_backend
from vimzoo.ops.runtime import native

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason="there is no native library here")
DTYPES = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def error(value: Tensor, truth: Tensor) -> float:
    return ((value.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-12)).item()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions of `vimzoo.ops.inference` that are called, where mixers are not one call."""
    monkeypatch.setattr(mixers, "takes", lambda dtype: False)
    names: list[str] = []

    def counting(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: Any) -> Tensor:
            names.append(name)
            return function(*args)

        return counted

    for name in ("layer_norm", "depthwise", "mlp", "conv"):
        monkeypatch.setattr(inference, name, counting(name, getattr(inference, name)))
    return names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 7, 16, 60, 96, 129])
def test_layer_norm(channels: int, dtype: torch.dtype, used: list[str]) -> None:
    layer = nn.LayerNorm(channels)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.to(dtype)
    x, both = torch.randn(2, 3, 5, channels).to(dtype) + 3, torch.randn(2, 3, 5, 2 * channels).to(dtype)
    gate = both.chunk(2, dim=-1)[1]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    truth = F.layer_norm(x.double(), (channels,), weight, bias)
    with torch.inference_mode():
        assert error(apply_norm(layer, x), truth) < DTYPES[dtype]
        assert error(apply_norm(layer, x, gelu=True), F.gelu(truth)) < DTYPES[dtype]
        y = apply_norm(layer, x.transpose(0, 2), gate.transpose(0, 2)).transpose(0, 2)
    assert error(y, truth * F.silu(gate.double())) < DTYPES[dtype]
    assert used == ["layer_norm"] * 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(1, 1, 1), (1, 5, 16), (4, 1, 30), (3, 4, 33), (5, 2, 144)]
)
def test_depthwise(height: int, width: int, channels: int, dtype: torch.dtype, used: list[str]) -> None:
    wide = torch.randn(2, height, width, 2 * channels).to(dtype)
    x = wide.chunk(2, dim=-1)[1]  # as the gated half of a projection lies in memory
    for bias, distance in ((True, 1), (False, 1), (True, 2), (False, 3)):
        of = partial(nn.Conv2d, channels, channels, 3, 1, distance, distance, channels, bias)
        layer, exact = of().to(dtype), of().double()
        exact.load_state_dict(layer.state_dict())
        truth = exact(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach()
        with torch.inference_mode():
            assert error(apply_conv(layer, x), truth) < DTYPES[dtype]
            assert error(apply_conv(layer, x, nn.SiLU()), F.silu(truth)) < DTYPES[dtype]
            assert error(apply_conv(layer, x, nn.GELU()), F.gelu(truth)) < DTYPES[dtype]
    assert used == ["depthwise"] * 12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_convolutions_of_separate_patches(dtype: torch.dtype) -> None:
    conv, x = nn.Conv2d(3, 20, (2, 4), (2, 4)).to(dtype), torch.randn(2, 3, 7, 22).to(dtype)
    truth = nn.Conv2d(3, 20, (2, 4), (2, 4)).double()
    truth.load_state_dict(conv.state_dict())
    seen: list[Tensor] = []
    for given in (x, x.mT.contiguous().mT, x[:, :, 1:]):
        assert error(convolved(conv, given), truth(given.double())) < DTYPES[dtype]
    conv.register_forward_hook(lambda layer, args, y: seen.append(y))
    assert error(convolved(conv, x), truth(x.double())) < DTYPES[dtype] and len(seen) == 1
    with pytest.raises(RuntimeError):
        convolved(conv, x[:, :2])


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    x = torch.randn(1, 40, 40, 96)
    norm, conv = nn.LayerNorm(96), nn.Conv2d(96, 96, 3, padding=1, groups=96)
    before = torch.get_num_threads()
    with torch.inference_mode():
        expected = apply_norm(norm, x), apply_conv(conv, x, nn.SiLU())
        try:
            torch.set_num_threads(threads)
            found = apply_norm(norm, x), apply_conv(conv, x, nn.SiLU())
        finally:
            torch.set_num_threads(before)
    assert all(map(torch.equal, found, expected))


def test_special_values_pass_through() -> None:
    x = torch.randn(1, 4, 4, 16)
    x[0, 1, 1, 3], x[0, 2, 2, 5] = float("nan"), float("inf")
    norm, conv = nn.LayerNorm(16), nn.Conv2d(16, 16, 3, padding=1, groups=16)
    for layer in (lambda: apply_norm(norm, x), lambda: apply_conv(conv, x)):
        with torch.inference_mode():
            y = layer()
        torch.testing.assert_close(y, layer().detach(), equal_nan=True, rtol=1e-5, atol=1e-5)


LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "VMamba's block": lambda: (VSSBlock(24), torch.randn(2, 6, 5, 24)),
    "norm afterwards": lambda: (VSSBlock(24, post_norm=True), torch.randn(2, 6, 5, 24)),
    "gated SS2D": lambda: (SS2D(24, gate="act", conv_bias=True), torch.randn(2, 6, 5, 24)),
    "SS2D without convolution": lambda: (SS2D(24, d_conv=1), torch.randn(2, 6, 5, 24)),
    "MambaIR's light block": lambda: (RestorationBlock(60, 10, 1.2, "light"), torch.randn(1, 6, 5, 60)),
    "MambaIR's block": lambda: (RestorationBlock(60, 4, 2.0), torch.randn(1, 6, 5, 60)),
    "stem": lambda: (MapStem(3, 24), torch.randn(1, 3, 20, 24)),
    "downsampling": lambda: (MapDownsample(24, 48), torch.randn(2, 7, 6, 24)),
    "merging": lambda: (MapDownsample(24, 48, "merge"), torch.randn(2, 7, 6, 24)),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_what_training_gives(
    name: str, mode: Callable, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "HIDDEN_BYTES", 1)
    monkeypatch.setattr(inference, "FEWEST_ROWS", 7)
    layer, x = LAYERS[name]()
    layer.eval()
    with use_backend("reference"):
        truth = layer(x).detach()
    assert not used
    trained = layer(x).detach()
    used.clear()
    with mode():
        y = layer(x)
    assert used
    assert ((trained - truth).abs().max() / truth.std()).item() < 1e-5
    assert ((y - truth).abs().max() / truth.std()).item() < 1e-5
    layer.bfloat16()
    truth = layer(x.bfloat16()).detach().float()
    with mode():
        assert ((layer(x.bfloat16()).float() - truth).abs().max() / truth.std()).item() < 6e-2


@pytest.mark.parametrize(
    "part", ["norm1", "ss2d.conv", "ss2d.act", "ss2d.out_norm", "norm2", "mlp.fc1", "mlp.act"]
)
def test_hooks_run_and_see_what_they_saw(part: str) -> None:
    block, x = VSSBlock(24).eval(), torch.randn(1, 4, 4, 24)
    seen: list[Tensor] = []
    block.get_submodule(part).register_forward_hook(lambda module, args, y: seen.append(y.clone()))
    y = block(x)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), y.detach(), rtol=1e-4, atol=1e-5)
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], seen[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [SelectiveSSM, SS2D, Mlp, VSSBlock])
@torch.inference_mode()
def test_a_replaced_forward_of_a_class_is_called(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those who try another composition replace it; it was passed over where layers run in one call."""
    blocks, x, seen = nn.Sequential(VSSBlock(24), VSSBlock(24)).eval(), torch.randn(1, 4, 4, 24), []
    expected, forward = infer_blocks(blocks, x), kind.forward

    def replaced(self: nn.Module, *args: Any) -> Any:
        seen.append(self)
        return forward(self, *args)

    monkeypatch.setattr(kind, "forward", replaced)
    assert infer_blocks(blocks, x) is None
    torch.testing.assert_close(blocks(x), expected, rtol=1e-4, atol=1e-5)
    assert len(seen) == 2


@torch.no_grad()
def test_whatever_watches_operators_still_sees_them(used: list[str]) -> None:
    block, conv, x = VSSBlock(24).eval(), CausalConv(8), torch.randn(1, 4, 4, 24)
    with FlopCounterMode(display=False) as counter:
        block(x)
    assert counter.get_total_flops() > 2 * 16 * 24 * 24 * 8
    with profile() as events:
        block(x)
        conv(torch.randn(1, 5, 8))
    names = {event.name for event in events.events()}
    assert {"vimzoo::scan_paths", "vimzoo::causal_conv1d"} <= names
    used.clear()
    with torch.autocast("cpu", torch.bfloat16):
        block(x)
    with use_backend("reference"):
        block(x)
    assert not used
    block(x)
    assert used


@torch.no_grad()
def test_dropout_in_training_mode_still_drops() -> None:
    block, x = VSSBlock(24, mlp_drop_rate=0.5).train(), torch.randn(1, 4, 4, 24)
    assert not torch.equal(block(x), block(x))


@torch.no_grad()
def test_errors_are_those_of_the_operators() -> None:
    with pytest.raises(ValueError, match="x: expected"):
        linear(torch.randn(2, 5), torch.randn(3, 6))
    with pytest.raises(RuntimeError):
        apply_conv(nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(1, 4, 4, 9))
    with pytest.raises(RuntimeError):
        apply_norm(nn.LayerNorm(8), torch.randn(1, 4, 9))
