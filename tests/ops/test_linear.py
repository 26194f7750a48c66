"""The matrix product agrees with torch's in float64, forward and backward, whatever library makes it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vimzoo.layers import plain
from vimzoo.ops import dense, linear, use_backend
from vimzoo.ops.runtime import native
from vimzoo.ops.runtime.abi import DTYPES

SHAPES = [(5, 7, 3), (197, 192, 44), (1, 16, 16), (33, 1, 8), (201, 37, 11), (97, 65, 25)]


def spread_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    return ((value.double() - truth).abs().max() / truth.std().clamp(min=1e-12)).item()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple[int, int, int], with_bias: bool) -> None:
    rows, inputs, outputs = shape
    wide = torch.randn(2, rows, 2 * inputs)
    x = wide[..., inputs:].requires_grad_()  # a strided half, as the mixer's gate is
    weight = torch.randn(outputs, inputs, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True) if with_bias else None
    given = [x, weight] + ([bias] if bias is not None else [])
    exact = [t.detach().double().requires_grad_() for t in given]
    grad = torch.randn(2, rows, outputs)
    y, truth = linear(*given), F.linear(*exact)
    assert spread_error(y, truth.detach()) < 3e-6
    with torch.inference_mode():
        assert spread_error(linear(*given), truth.detach()) < 3e-6
    wanted = torch.autograd.grad(truth, exact, grad.double())
    for got, want in zip(torch.autograd.grad(y, given, grad), wanted, strict=True):
        assert got.shape == want.shape and (got.double() - want).abs().max() < 1e-5 * (1 + want.abs().max())


def test_a_weight_per_direction() -> None:
    x, weight = torch.randn(3, 2, 11, 8, requires_grad=True), torch.randn(3, 5, 8, requires_grad=True)
    tokens = x.permute(1, 2, 0, 3)
    y = linear(tokens, weight)
    assert y.shape == (2, 11, 3, 5) and y.permute(2, 0, 1, 3).is_contiguous()
    truth = torch.einsum("blki,koi->blko", tokens.double(), weight.double())
    assert spread_error(y.detach(), truth.detach()) < 3e-6
    for got, want in zip(
        torch.autograd.grad(y.sum(), (x, weight)), torch.autograd.grad(truth.sum(), (x, weight)), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, weight, bias = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3, requires_grad=True)
    linear(x, weight, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((3,), 4.0))  # type: ignore[arg-type]
    assert x.grad is None and weight.grad is None


def test_autocast_and_half_precision() -> None:
    x, weight, bias = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight, bias)
    assert y.dtype == torch.bfloat16
    assert (y.float() - F.linear(x, weight, bias)).abs().max() < 2e-2 * F.linear(x, weight, bias).std() + 2e-2
    assert linear(x.half(), weight.half()).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_operands_are_widened_where_torch_has_only_a_loop(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "WIDENED", frozenset({dtype}))
    monkeypatch.setattr(plain, "WIDENED", frozenset({dtype}))
    x, weight, bias = (torch.randn(*size).to(dtype) for size in ((2, 9, 6), (5, 6), (5,)))
    wide = [t.float().requires_grad_() for t in (x, weight, bias)]
    given = [t.requires_grad_() for t in (x, weight, bias)]
    y, exact = linear(*given), F.linear(*wide)
    assert y.dtype == dtype and torch.equal(y, exact.to(dtype))
    grad = torch.randn(2, 9, 5).to(dtype)
    wanted = torch.autograd.grad(exact, wide, grad.float())
    for got, want in zip(torch.autograd.grad(y, given, grad), wanted, strict=True):
        assert got.dtype == dtype and (got.float() - want).abs().max() <= 2**-7 * want.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # chooses the dtype itself
        assert not dense.is_widened(x, weight)
    conv, maps = nn.Conv2d(6, 4, 3, stride=2, padding=1).to(dtype), torch.randn(2, 8, 7, 6).to(dtype)
    with torch.inference_mode():
        found = [
            plain.convolved(conv, maps.permute(0, 3, 1, 2)),
            plain.apply_conv(conv, maps).permute(0, 3, 1, 2),
        ]
        truth = conv.float()(maps.permute(0, 3, 1, 2).float())
    assert all(torch.equal(y, truth.to(dtype)) for y in found)


def test_no_rows() -> None:
    assert linear(torch.randn(0, 6), torch.randn(3, 6)).shape == (0, 3)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ((torch.randn(2, 5), torch.randn(3, 6)), "x"),
        ((torch.randn(2, 6), torch.randn(6)), "weight"),
        ((torch.randn(2, 4, 3, 6), torch.randn(2, 5, 6)), "x"),
        ((torch.randn(2, 4, 2, 6), torch.randn(2, 5, 6), torch.randn(5)), "bias"),
    ],
)
def test_bad_input(args: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        linear(*args)


def _counted(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with FlopCounterMode(display=False):
        return call(x)


@pytest.mark.parametrize(
    "watched",
    [
        _counted,
        lambda call, x: torch.func.vmap(lambda one: call(one[None]))(x),
        lambda call, x: torch.func.jvp(call, (x,), (x,))[0],
        lambda call, x: torch.jit.trace(call, x)(x),
    ],
    ids=["counter", "vmap", "jvp", "trace"],
)
@pytest.mark.parametrize(
    ("weight", "bias", "name"),
    [((3, 6, 4), (6,), "bias"), ((2, 6, 4), None, "x"), ((4,), None, "weight")],
    ids=["bias", "directions", "rank"],
)
def test_bad_input_is_refused_where_calls_are_watched(
    watched: Callable, weight: tuple[int, ...], bias: tuple[int, ...] | None, name: str
) -> None:
    """A bias beside a weight per direction used to be dropped in silence there."""
    given = torch.randn(weight), None if bias is None else torch.randn(bias)
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        watched(lambda x: torch.ops.vimzoo.linear(x, *given), torch.randn(2, 5, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_products_of_the_native_library(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    library, level = native.load()
    if library is None or not library.product_takes(DTYPES[dtype]):
        pytest.skip(f"no products of our own: {level}")
    made: list[bytes] = []

    def counted(arguments: bytes) -> None:
        made.append(arguments)
        product_forward(arguments)

    product_forward = library.product_forward
    monkeypatch.setattr(library, "product_forward", counted)
    monkeypatch.setattr(dense, "_HAS_TILES", False)
    wide, weight = torch.randn(3, 7, 96).to(dtype), torch.randn(20, 48).to(dtype)
    x, bias = wide[..., 48:], torch.randn(20).to(dtype)
    truth = F.linear(x.double(), weight.double(), bias.double())
    error = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}[dtype] * truth.abs().max()
    assert (linear(x, weight, bias) - truth).abs().max() < 2 * error and not made  # gradients may be wanted
    with torch.inference_mode():
        assert (linear(x, weight, bias) - truth).abs().max() < error and len(made) == 1
        columns = weight.T.contiguous().T  # as weights are that have been transposed
        assert (linear(x, columns, bias) - truth).abs().max() < error and len(made) == 1
        assert linear(x[:0], weight, bias).shape == (0, 7, 20) and len(made) == 1
        with use_backend("reference"):
            assert (linear(x, weight, bias) - truth).abs().max() < 2 * error and len(made) == 1
        with FlopCounterMode(display=False) as flops:
            linear(x, weight, bias)
        assert flops.get_total_flops() == 2 * 21 * 48 * 20 and len(made) == 1


@pytest.mark.parametrize("outputs", [10, 25, 500])
def test_weight_gradients_of_the_native_library(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library, level = native.load()
    if library is None or not library.product_takes(DTYPES[torch.float32]):
        pytest.skip(f"no products of our own: {level}")
    made: list[bytes] = []

    def counted(arguments: bytes) -> None:
        made.append(arguments)
        weight_gradient(arguments)

    weight_gradient = library.weight_gradient_forward
    monkeypatch.setattr(library, "weight_gradient_forward", counted)
    x, grad = torch.randn(401, 2 * 65)[:, :65], torch.randn(401, outputs)
    weight, bias = torch.randn(outputs, 65, requires_grad=True), torch.randn(outputs, requires_grad=True)

    def gradients(of: Tensor = x, **options: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(linear(of, weight, bias), (weight, bias), grad[: len(of)], **options)

    found = gradients()
    assert len(made) == 1
    for got, truth in zip(found, (grad.double().T @ x.double(), grad.double().sum(0)), strict=True):
        assert (
            spread_error(got, truth) < 2 * len(x) ** 0.5 * torch.finfo(x.dtype).eps
        )  # sums one after another
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(dense.threads, "for_work", lambda _: 4)
        assert all(torch.equal(a, b) for a, b in zip(gradients(), found, strict=True)) and len(made) == 2
    finally:
        torch.set_num_threads(threads)
    assert all(not g.any() for g in gradients(x[:0])) and len(made) == 2
    gradients(create_graph=True)  # which has to have gradients itself
    with use_backend("reference"):
        gradients()
    assert len(made) == 2
    x = x.clone()
    x[7, 3] = torch.inf
    (spoiled,) = torch.autograd.grad(linear(x, weight, bias), (weight,), grad)
    assert len(made) == 3 and spoiled.isinf()[:, 3].all() and spoiled.isfinite().sum() == outputs * 64
