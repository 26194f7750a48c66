"""Weights of 8 and 4 bits: the numbers that are stored, and products with them."""

import logging

import pytest
import torch
import torch.nn.functional as F

from vimzoo.ops import quantized
from vimzoo.ops.quantized import quantize_weight, quantized_linear
from vimzoo.ops.runtime import native

KINDS = [(8, None, True), (8, 32, False), (4, None, True), (4, 32, True), (4, 64, False)]
BOUNDS = {torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@pytest.mark.parametrize(("bits", "group", "symmetric"), KINDS)
@pytest.mark.parametrize("columns", [7, 32, 200])
def test_a_weight_is_at_most_half_a_step_away(bits, group, symmetric, columns):
    torch.manual_seed(0)
    weight = torch.randn(5, columns)
    weight[3] = 0
    found = quantize_weight(weight, bits, group=group, symmetric=symmetric)
    size = found.group
    for begin in range(0, columns, size):
        part = weight[:, begin : begin + size]
        step = found.scale[:, begin // size]
        error = (found.dequantize()[:, begin : begin + size] - part).abs().amax(-1)
        assert (error <= step * 0.5001 + 1e-12).all()
        largest = (
            part.abs().amax(-1) if symmetric else part.amax(-1).clamp(min=0) - part.amin(-1).clamp(max=0)
        )
        steps = {(8, True): 127, (8, False): 255, (4, True): 7.5, (4, False): 15}[bits, symmetric]
        torch.testing.assert_close(step, largest / steps)
    assert (found.dequantize()[3] == 0).all()


def test_four_bits_take_half_a_byte():
    assert quantize_weight(torch.randn(6, 96), 4).values.shape == (6, 48)
    assert quantize_weight(torch.randn(6, 96), 8).values.shape == (6, 96)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("bits", "group", "symmetric"), KINDS)
@pytest.mark.parametrize(
    "rows", [1, 3, 4, 9, 40]
)  # one at a time, four at a time, and the weight widened first
def test_products_equal_those_with_the_widened_weight(dtype, bits, group, symmetric, rows):
    torch.manual_seed(rows)
    for outputs, columns in ((1, 7), (6, 32), (45, 200)):
        weight = quantize_weight(torch.randn(outputs, columns), bits, group=group, symmetric=symmetric)
        x, bias = torch.randn(2, rows, columns).to(dtype), torch.randn(outputs)
        wanted = F.linear(x.double(), weight.dequantize(torch.float64), bias.double())
        with torch.inference_mode():
            found = quantized_linear(x, weight, bias)
        assert found.dtype == dtype and found.shape == wanted.shape
        error = (found.double() - wanted).abs().max()
        assert error <= BOUNDS[dtype] * wanted.abs().max()
        with_grad = quantized_linear(x.clone().requires_grad_(), weight, bias)
        torch.testing.assert_close(with_grad.detach(), found, rtol=2 * BOUNDS[dtype], atol=BOUNDS[dtype] * 20)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("columns", [1, 33, 64, 200])
def test_rounded_activations(dtype, columns):
    torch.manual_seed(columns)
    for rows, outputs in ((1, 1), (5, 6), (70, 19)):
        weight = quantize_weight(torch.randn(outputs, columns))
        x, bias = torch.randn(rows, columns).to(dtype), torch.randn(outputs)
        x[rows // 2] = 0
        wide = x.double()
        largest = wide.abs().amax(-1, keepdim=True).clamp(min=1e-30)
        whole = (x.float() * (torch.full_like(largest, 127).float() / largest.float())).round().double()
        assert whole.abs().max() <= 127
        exact = whole @ weight.values[:, :columns].double().T
        wanted = exact * largest / 127 * weight.scale[:, 0].double() + bias.double()
        with torch.inference_mode():
            found = quantized_linear(x, weight, bias, activations="int8")
        bound = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
        assert (found.double() - wanted).abs().max() <= bound * (wanted.abs().max() + 1)


def test_rounded_activations_keep_nan_and_infinity_in_their_rows():
    weight = quantize_weight(torch.randn(8, 64))
    x = torch.ones(6, 64)
    x[1, 3], x[4, 60] = float("nan"), float("inf")
    with torch.inference_mode():
        found = quantized_linear(x, weight, activations="int8")
    assert found.isnan().any(1).tolist() == [False, True, False, False, True, False]


@pytest.mark.skipif(native.load()[0] is None, reason="the native library was not built")
def test_a_processor_without_the_instructions_says_so_once(monkeypatch, caplog):
    weight, x = quantize_weight(torch.randn(8, 64)), torch.randn(30, 64)
    with torch.inference_mode():
        wanted = quantized_linear(x, weight, activations="int8")
        monkeypatch.setattr(native.load()[0], "has_int8", False)
        quantized._say_slow.cache_clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                torch.testing.assert_close(quantized_linear(x, weight, activations="int8"), wanted)
    assert [record.message for record in caplog.records if "8 bits" in record.message] == [
        "activations of 8 bits: this processor or build has no products of bytes; computed in float32, which is slower"
    ]


def test_gradients_reach_input_bias_scale_and_offset():
    torch.manual_seed(0)
    weight = quantize_weight(torch.randn(6, 64, dtype=torch.float64), 4, group=32, symmetric=False)
    scale, offset = weight.scale.double().requires_grad_(), weight.offset.double().requires_grad_()
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def product(x, bias, scale, offset):
        return quantized_linear(x, weight._replace(scale=scale, offset=offset), bias)

    assert torch.autograd.gradcheck(product, (x, bias, scale, offset))


def test_compiled_and_exported_products_are_equal():
    weight, x = quantize_weight(torch.randn(6, 64), 4, group=32), torch.randn(5, 64)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return quantized_linear(x, weight)

    with torch.no_grad():
        wanted = quantized_linear(x, weight)
        program = torch.export.export(Layer(), (x,))
        torch.testing.assert_close(program.module()(x), wanted, rtol=1e-5, atol=1e-5)


W8, W4 = quantize_weight(torch.ones(4, 64)), quantize_weight(torch.ones(4, 64), 4, group=32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize_weight(torch.ones(4)), r"weight: expected \(..., O, I\) floats, got shape \(4,\)"),
        (lambda: quantize_weight(torch.ones(4, 4), 6), "bits: expected 8 or 4, got 6"),
        (lambda: quantize_weight(torch.ones(4, 4), group=20), "group: expected a multiple of 32, or None, got 20"),
        (lambda: quantize_weight(torch.full((4, 4), torch.inf)), "weight: expected finite numbers"),
        (lambda: quantized_linear(torch.ones(2, 63), W8), r"x: expected \(..., 64\) floats, got shape \(2, 63\)"),
        (lambda: quantized_linear(torch.ones(2, 64).int(), W8), "floats, got shape .* of torch.int32"),
        (lambda: quantized_linear(torch.ones(2, 64), W8, torch.ones(3)), r"bias: expected shape \(4,\), got \(3,\)"),
        (lambda: quantized_linear(torch.ones(2, 64), W8, activations="int4"), "activations: expected 'float' or"),
        (lambda: quantized_linear(torch.ones(2, 64), W4, activations="int8"), "activations: expected 'float' with"),
        (
            lambda: quantized_linear(torch.ones(2, 64, requires_grad=True), W8, activations="int8"),
            "activations: expected 'float' where a gradient is wanted",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
