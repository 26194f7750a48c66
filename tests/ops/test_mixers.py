"""Mixers and MLPs in one call compute what their operators do, read parameters anew, refuse what does not fit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vimzoo
import vimzoo.quantization
from vimzoo.layers import SS2D, AddNorm, BiMamba, BiMambaBlock, VSSBlock
from vimzoo.layers.mambair import RestorationBlock
from vimzoo.layers.mlp import Mlp
from vimzoo.layers.quantized import QuantizedLinear
from vimzoo.ops import mixers
from vimzoo.ops.runtime import native
from vimzoo.ops.runtime.abi import DTYPES, address

FOUND = native.load()[0] is not None
DTYPE_BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}  # of the largest output
TAKEN = [dtype for dtype in DTYPE_BOUNDS if FOUND and mixers.takes_dtype(dtype)]
pytestmark = pytest.mark.skipif(not TAKEN, reason="there are no products of our own for this processor")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions of C that mixers call."""
    made: list[str] = []
    library = native.require()

    def counting(name: str, function: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def counted(args: bytes) -> None:
            made.append(name)
            function(args)

        return counted

    for name in ("mixer_forward", "mlp_forward", "quantized_linear_forward"):
        monkeypatch.setattr(library, name, counting(name, getattr(library, name)))
    return made


def product(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """``vimzoo_product_forward`` on rows of ``x``."""
    out = torch.empty(len(x), len(weight), dtype=x.dtype)
    tensors = {name: options.pop(name, None) for name in ("bias", "add")}
    native.require().product_forward(native.ProductArgs(
        rows=len(x), depth=x.shape[1], columns=len(weight), dtype=DTYPES[x.dtype], x=address(x), x_row=x.stride(0),
        weight=address(weight), out=address(out), out_row=len(weight), add_row=len(weight),
        **{name: address(tensor) for name, tensor in tensors.items()}, **{"threads": 1, "scale": 1.0} | options,
    ))  # fmt: skip
    return out


@pytest.mark.parametrize("dtype", TAKEN, ids=str)
@pytest.mark.parametrize("rows", [1, 4, 5, 6, 11, 12, 13, 49, 197])
@pytest.mark.parametrize(("depth", "columns"), [(2, 1), (16, 44), (130, 32), (258, 33), (600, 17)])
def test_product(rows: int, depth: int, columns: int, dtype: torch.dtype) -> None:
    wide = torch.randn(rows, 2 * depth).to(dtype)
    x, weight = wide[:, depth:], torch.randn(columns, depth).to(dtype)
    bias, add = torch.randn(columns).to(dtype), torch.randn(rows, columns).to(dtype)
    plain = x.double() @ weight.double().T
    bound = DTYPE_BOUNDS[dtype] * plain.abs().max()
    assert (product(x, weight) - plain).abs().max() < bound
    truth = F.gelu(0.5 * plain + bias.double()) + add.double()
    for threads in (1, 2, 3):
        y = product(x, weight, bias=bias, add=add, gelu=1, scale=0.5, threads=threads)
        assert (y - truth).abs().max() < bound + 5e-7


@pytest.mark.parametrize("dtype", TAKEN, ids=str)
def test_product_keeps_special_values_and_does_not_depend_on_threads(dtype: torch.dtype) -> None:
    x, weight = torch.randn(700, 96).to(dtype), torch.randn(70, 96).to(dtype)
    expected = product(x, weight)
    assert torch.equal(product(x, weight, threads=4), expected)
    x[5, 3], x[300, 95], weight[69, 0] = float("nan"), float("inf"), float("nan")
    found = product(x, weight)
    assert found[5].isnan().all() and found[:, 69].isnan().all()
    assert not found[300, :69].isfinite().any()
    others = torch.ones(700, dtype=torch.bool)
    others[[5, 300]] = False
    assert torch.equal(found[others, :69], expected[others, :69])


def test_gelu_is_exact() -> None:
    x = torch.linspace(-12, 12, 4001)[:, None].contiguous()
    y = product(x, torch.ones(1, 1), gelu=1)
    assert (y - F.gelu(x.double())).abs().max() < 1e-6


LAYERS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "Vim's mixer": lambda: (BiMamba(48), (torch.randn(2, 37, 48),)),
    "with biases": lambda: (BiMamba(48, proj_bias=True, d_conv=3), (torch.randn(2, 37, 48),)),
    "without biases": lambda: (BiMamba(48, conv_bias=False, divide_out=False), (torch.randn(2, 37, 48),)),
    "v1": lambda: (BiMamba(48, "v1", d_state=5), (torch.randn(2, 37, 48),)),
    "Mamba": lambda: (BiMamba(48, "none"), (torch.randn(3, 300, 48),)),
    "first block": lambda: (BiMambaBlock(48), (torch.randn(2, 37, 48),)),
    "block": lambda: (BiMambaBlock(48, "layer"), (torch.randn(2, 37, 48), torch.randn(2, 37, 48))),
    "VMamba's block": lambda: (VSSBlock(32), (torch.randn(7, 6, 9, 32),)),
    "of 3 states": lambda: (VSSBlock(24, 3, 2.0, conv_bias=True), (torch.randn(1, 6, 5, 24),)),
    "gated": lambda: (SS2D(24, gate="act", conv_bias=True, proj_bias=True), (torch.randn(2, 6, 5, 24),)),
    "rows only": lambda: (SS2D(24, paths="unidirectional"), (torch.randn(2, 6, 5, 24),)),
    "MambaIR's block": lambda: (RestorationBlock(60, 10, 1.2, "light"), (torch.randn(1, 6, 5, 60),)),
    "MLP": lambda: (Mlp(24, 2000), (torch.randn(1, 20, 20, 24),)),
}


def first_of(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def error(found: Any, truth: Any) -> float:
    """Root of the mean square of the error, in spreads of the truth; the largest of several outputs."""
    pairs = zip(*([v] if isinstance(v, Tensor) else v for v in (found, truth)), strict=True)
    return max(((y.float() - t.float()).square().mean().sqrt() / t.float().std()).item() for y, t in pairs)


def largest(found: Any, truth: Any) -> float:
    """The largest error, in spreads of the truth."""
    pairs = zip(*([v] if isinstance(v, Tensor) else v for v in (found, truth)), strict=True)
    return max(((y - t).abs().max() / t.std()).item() for y, t in pairs)


@pytest.mark.parametrize("dtype", TAKEN, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_what_their_operators_give(name: str, dtype: torch.dtype, calls: list[str]) -> None:
    layer, given = LAYERS[name]()
    layer.eval()
    exact = layer(*given)
    layer.to(dtype)
    given = (given[0].to(dtype), *given[1:])  # the stream stays in float32
    truth = layer(*given)
    assert not calls
    with torch.inference_mode():
        found = layer(*given)
        assert calls
        assert error(found, exact) < 1.1 * error(truth, exact) + 5e-6
        if dtype == torch.float32:
            assert largest(found, exact) < 3e-5
        assert first_of(found).dtype == first_of(truth).dtype
        torch.set_num_threads(2)
        try:
            assert torch.equal(first_of(layer(*given)), first_of(found))
        finally:
            torch.set_num_threads(1)
    if isinstance(found, tuple):
        assert found[1].dtype == truth[1].dtype


QUANTIZED = ("Vim's mixer", "with biases", "block", "VMamba's block", "gated", "MLP")


@pytest.mark.parametrize("dtype", TAKEN, ids=str)
@pytest.mark.parametrize("kind", vimzoo.quantization.KINDS)
@pytest.mark.parametrize("name", QUANTIZED)
@torch.inference_mode()
def test_weights_of_few_bits_stay_within_the_call(
    name: str, kind: str, dtype: torch.dtype, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, given = LAYERS[name]()
    layer = vimzoo.quantize(layer, kind).to(dtype)
    given = (given[0].to(dtype), *given[1:])
    if kind == "int8-dynamic" and not native.require().has_int8:
        pytest.skip("no products of bytes here")

    def one_by_one(layer: nn.Module, given: tuple[Tensor, ...]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(mixers, "takes", lambda x: False)
            return layer(*given)

    truth, exact = one_by_one(layer, given), one_by_one(layer.float(), tuple(x.float() for x in given))
    assert set(calls) == {"quantized_linear_forward"}
    calls.clear()
    found = layer.to(dtype)(*given)
    assert calls and "quantized_linear_forward" not in calls
    assert error(found, exact) < 1.1 * error(truth, exact) + (1e-3 if kind == "int8-dynamic" else 5e-6)
    before = first_of(found)
    for module in layer.modules():
        if isinstance(module, QuantizedLinear):
            module.weight_values.view(-1)[0] ^= 0x55
            found = first_of(layer(*given))
            assert not torch.equal(found, before)
            before = found


@torch.inference_mode()
def test_decay_rates_may_stay_in_float32(calls: list[str]) -> None:
    if torch.bfloat16 not in TAKEN:
        pytest.skip("no products of bfloat16 here")
    layer, x = BiMamba(48).bfloat16(), torch.randn(1, 37, 48).bfloat16()
    narrow = layer(x)
    layer.ssm.A_log.data = layer.ssm.A_log.data.float()
    assert torch.equal(layer(x), narrow) and len(calls) == 2


def change_strides(p: nn.Parameter) -> None:
    p.data = p.data.add(0.2).transpose(0, -1).contiguous().transpose(0, -1)


CHANGES: dict[str, Callable[[nn.Parameter], Any]] = {
    "in place": lambda p: p.add_(0.3),
    "through data": lambda p: p.data.add_(0.3),
    "one value": lambda p: p.data.view(-1)[-1:].add_(3.0),
    "other memory": lambda p: setattr(p, "data", p.data * -1.3 + 0.2),
    "other strides": change_strides,
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["block", "VMamba's block"])
def test_a_change_of_any_parameter_counts_at_once(
    name: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, given = LAYERS[name]()
    layer.eval()
    before = first_of(layer(*given))
    for parameter_name in dict(layer.named_parameters()):
        changed = copy.deepcopy(layer)
        changed(*given)
        CHANGES[change](changed.get_parameter(parameter_name))
        found = first_of(changed(*given))
        with monkeypatch.context() as patch:
            patch.setattr(mixers, "takes", lambda x: False)
            truth = first_of(changed(*given))
        assert not torch.equal(found, before), parameter_name
        assert error(found, truth) < 5e-6, parameter_name


@torch.inference_mode()
@pytest.mark.parametrize(
    "part", ["norm", "mixer", "mixer.in_proj", "mixer.conv", "mixer.ssm", "mixer.out_proj"]
)
def test_hooks_in_vims_block_run(part: str, calls: list[str]) -> None:
    block = BiMambaBlock(32).eval()
    x, stream = torch.randn(1, 9, 32), torch.randn(1, 9, 32)
    truth, seen = block(x, stream), []
    block.get_submodule(part).register_forward_hook(lambda *args: seen.append(part))
    assert error(block(x, stream), truth) < 5e-6
    assert seen == [part]
    assert calls == ["mixer_forward"] * (2 if part in ("norm", "mixer") else 1)


@torch.no_grad()
def test_what_does_not_fit_is_left_to_the_operators(calls: list[str]) -> None:
    x = torch.randn(1, 9, 32)
    broken = BiMamba(32).eval()
    broken.ssm.x_proj = nn.Parameter(torch.randn(2, 7, 64))
    with pytest.raises(ValueError, match="x_dbl: expected"):
        broken(x)
    with pytest.raises(ValueError, match="x: expected the dtype"):
        BiMamba(32).eval()(x.double())
    for layer in (BiMamba(32, layer_scale=0.1), BiMamba(32).double()):
        layer.eval()(x.to(layer.in_proj.weight.dtype))
    for layer in (SS2D(32, ssd=True), SS2D(32, act="gelu"), SS2D(32, d_conv=5), SS2D(32, gate="linear"),
                  SS2D(32, out_norm="none"), SS2D(32, out_act=True), SS2D(32, drop_rate=0.5).train()):  # fmt: skip
        layer(x.view(1, 3, 3, 32))
    assert not calls


def test_vims_blocks_in_a_row_give_what_each_gives(calls: list[str]) -> None:
    model = timm.create_model("test_vim", depth=5, drop_path_rate=0.9).eval()
    image = torch.randn(2, *model.default_cfg["input_size"])
    taps: list[tuple[Tensor, Tensor]] = []

    def watch(block: nn.Module, given: Any, found: tuple[Tensor, Tensor]) -> None:
        taps.append(found)

    def tapped(*indices: int) -> list[tuple[Tensor, Tensor]]:
        x, grid = model._embed(image)
        x, residual, found = model._forward_blocks(x, grid, list(indices), len(model.blocks))
        return [*found, (x, residual)]

    with torch.no_grad():
        in_a_row = tapped(0, 2, 3), tapped(), tapped(4)
        assert calls == 3 * len(model.blocks) * ["mixer_forward"]
        for block in model.blocks:
            block.register_forward_hook(watch)  # now each block is called
        tapped()
    assert len(taps) == len(model.blocks)
    for found, wanted in zip(in_a_row, [(0, 2, 3, 4), (4,), (4, 4)], strict=True):
        for pair, i in zip(found, wanted, strict=True):
            assert torch.equal(pair[0], taps[i][0]) and torch.equal(pair[1], taps[i][1])


@torch.inference_mode()
def test_vims_last_norm_runs_with_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = timm.create_model("test_vim", depth=3).eval(), []
    image = torch.randn(2, *model.default_cfg["input_size"])
    with monkeypatch.context() as patch:
        patch.setattr(AddNorm, "__call__", None)
        found = model(image)
    model.norm.register_forward_hook(lambda *args: seen.append(args))
    assert error(model(image), found) < 5e-6 and len(seen) == 1


@torch.inference_mode()
def test_vmambas_blocks_in_a_row_give_what_each_gives(calls: list[str]) -> None:
    stage = timm.create_model("test_vmamba", depths=(3,), dims=32, drop_path_rate=0.9).eval().stages[0]
    x, seen = torch.randn(2, 6, 5, 32), []
    found = stage(x)
    assert calls == 3 * ["mixer_forward", "mlp_forward"]
    parts = ["blocks.1", "blocks.1.norm1", "blocks.1.ss2d.conv", "blocks.1.norm2", "blocks.1.mlp.fc1"]
    for part in map(stage.get_submodule, parts):
        hook = part.register_forward_hook(lambda layer, *args: seen.append(layer))
        assert error(stage(x), found) < 5e-6
        hook.remove()
    assert seen == list(map(stage.get_submodule, parts))
    assert not torch.equal(stage.train()(x), found)


def test_paths_are_dropped_in_training_without_gradients_too() -> None:
    model = timm.create_model("test_vim", depth=4, drop_path_rate=0.9).train()
    image = torch.randn(8, *model.default_cfg["input_size"])
    with torch.no_grad():
        dropped = model(image)
        assert not torch.equal(dropped, model(image))
        assert not torch.equal(dropped, model.eval()(image))


@torch.no_grad()
@pytest.mark.parametrize("name", ["Vim's mixer", "block", "gated", "MambaIR's block"])
def test_inputs_of_any_strides(name: str, calls: list[str]) -> None:
    """Their dense copy lives until C has read it: its memory is the first that the next allocation takes."""
    layer, given = LAYERS[name]()
    layer.eval()
    truth = first_of(layer(*given))
    for _ in range(5):
        strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in given]
        assert torch.equal(first_of(layer(*strided)), truth)
    assert len(calls) == 6
