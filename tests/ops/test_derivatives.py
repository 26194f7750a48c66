"""Forward mode, second derivatives and `torch.func` transforms of every operator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ops_helpers import Tensors, conv_inputs, in_float64, norm_inputs, path_inputs, scan_inputs
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vimzoo.ops import (
    CROSS,
    BackendError,
    ScanPath,
    add_norm,
    backends,
    causal_conv1d,
    linear,
    scan_paths,
    selective_scan,
    use_backend,
)

Case = tuple[Callable[..., Any], Callable[[], Tensors], dict[str, Any]]


def complex_scan_inputs() -> Tensors:
    inputs = scan_inputs(2, 2, 3, 2, None, optional="")
    return inputs | {name: torch.complex(inputs[name], 0.3 * torch.rand(2, 2)) for name in "ABC"}  # type: ignore[arg-type]


OPS: dict[str, Case] = {
    "selective_scan": (
        selective_scan,
        lambda: scan_inputs(2, 4, 5, 2, groups=2),
        {"delta_softplus": True, "return_last_state": True},
    ),
    "selective_scan, complex": (selective_scan, complex_scan_inputs, {}),
    "scan_paths": (scan_paths, lambda: path_inputs(2, 6, 3, 4, 2, 2), {"paths": CROSS, "grid": (2, 3)}),
    "scan_paths, table": (
        scan_paths,
        lambda: path_inputs(2, 6, 3, 2, 2, 2, own=True, optional="D"),
        {"paths": (ScanPath.from_table([2, -1, 0, 4]), ScanPath.from_table([5, 5, 1, -1])), "merge": False},
    ),
    "causal_conv1d": (
        causal_conv1d,
        lambda: conv_inputs(2, 5, 3),
        {"reverse": (False, True), "activation": "silu"},
    ),
    "add_norm": (add_norm, lambda: norm_inputs(2, 3, 4), {"rms": False}),
    "add_norm, no stream": (add_norm, lambda: norm_inputs(2, 3, 4, residual=False, bias=False), {}),
    "linear": (
        linear,
        lambda: {"x": torch.randn(2, 3, 4), "weight": torch.randn(5, 4), "bias": torch.randn(5)},
        {},
    ),
    "linear per direction": (
        linear,
        lambda: {"x": torch.randn(2, 3, 2, 4), "weight": torch.randn(2, 5, 4)},
        {},
    ),
}
REAL = [name for name in OPS if "complex" not in name]  # Jacobians of `torch.func`, and float32


def call_of(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """A function of a case's tensors alone, and those, which require gradients."""
    function, make, settings = case
    made = make() if dtype == torch.float32 else in_float64(make())
    tensors = {name: t.requires_grad_() for name, t in made.items() if t is not None}
    if "residual" in made and made["residual"] is None:
        settings = settings | {"residual": None}

    def call(*values: Tensor) -> Any:
        return function(**dict(zip(tensors, values, strict=True)), **settings)

    return call, tuple(tensors.values())


def loss_of(call: Callable[..., Any]) -> Callable[..., Tensor]:
    """A smooth scalar of all outputs whose derivatives do not vanish."""

    def loss(*values: Tensor) -> Tensor:
        outputs = call(*values)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return sum(torch.tanh(o).abs().square().sum() + o.abs().square().mean() for o in outputs)  # type: ignore

    return loss


@pytest.mark.parametrize("name", OPS)
def test_forward_mode_and_batched_gradients(name: str) -> None:
    call, tensors = call_of(OPS[name])
    assert torch.autograd.gradcheck(
        call, tensors, fast_mode=True, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_second_derivatives(name: str) -> None:
    call, tensors = call_of(OPS[name])
    assert torch.autograd.gradgradcheck(
        call,
        tensors,
        fast_mode=True,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
    )


@pytest.mark.parametrize("name", ["add_norm", "scan_paths", "linear"])
def test_third_derivatives(name: str) -> None:
    """Those of torch's own layer norm are wrong, so the reference does not use it."""
    call, tensors = call_of(OPS[name])
    loss = loss_of(call)

    def gradient(*values: Tensor) -> Tensor:
        return torch.autograd.grad(loss(*values), values[0], create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, tensors, fast_mode=True)


@pytest.mark.parametrize("name", REAL)
def test_torch_func(name: str) -> None:
    """Every transform gives what backward passes give."""
    call, tensors = call_of(OPS[name])
    loss, everything = loss_of(call), tuple(range(len(tensors)))
    expected = torch.autograd.grad(loss(*tensors), tensors)
    tensors = tuple(t.detach() for t in tensors)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        for got, want in zip(transform(loss, argnums=everything)(*tensors), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    directions = tuple(torch.randn_like(t) for t in tensors)
    tangent = torch.func.jvp(loss, tensors, directions)[1]
    along = sum((g * v).sum() for g, v in zip(expected, directions, strict=True))
    torch.testing.assert_close(tangent, along, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPS)
def test_vmap(name: str) -> None:
    """A batch of calls, of gradients, and of calls of which only one argument differs."""
    call, tensors = call_of(OPS[name])
    loss = loss_of(call)
    many = [torch.stack([t, 0.5 * t, 0.9 * t]).detach() for t in tensors]
    each = [[loss(*values), *torch.autograd.grad(loss(*values), values)] for values in _items(many)]
    found = [torch.vmap(loss)(*many), *torch.vmap(torch.func.grad(loss, tuple(range(len(many)))))(*many)]
    for i, got in enumerate(found):
        torch.testing.assert_close(got, torch.stack([values[i] for values in each]), rtol=1e-9, atol=1e-9)
    last = (*(t.detach() for t in tensors[:-1]), many[-1])
    got = torch.vmap(loss, in_dims=(*(None,) * len(tensors[:-1]), 0))(*last)
    want = torch.stack([loss(*last[:-1], value) for value in many[-1]])
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def _items(many: list[Tensor]) -> list[tuple[Tensor, ...]]:
    return [
        tuple(t.requires_grad_() for t in values) for values in zip(*(t.unbind() for t in many), strict=True)
    ]


@pytest.mark.parametrize("name", ["selective_scan", "scan_paths", "causal_conv1d"])
def test_hessian(name: str) -> None:
    call, tensors = call_of(OPS[name])
    loss = loss_of(lambda x: call(x, *(t.detach() for t in tensors[1:])))
    x = tensors[0].detach()
    want = torch.autograd.functional.hessian(loss, x)
    assert want.abs().max() > 0.1
    torch.testing.assert_close(torch.func.hessian(loss)(x), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", REAL)
def test_float32_hessian_vector_product(name: str) -> None:
    """The first derivative is a fast backend's, its derivative agrees with float64."""
    call, tensors = call_of(OPS[name], torch.float32)
    directions = [torch.randn_like(t) for t in tensors]
    loss = loss_of(call)

    def product(dtype: torch.dtype) -> tuple[Tensor, ...]:
        values = tuple(t.detach().to(dtype).requires_grad_() for t in tensors)
        first = torch.autograd.grad(loss(*values), values, create_graph=True)
        total = sum((g * v.to(dtype)).sum() for g, v in zip(first, directions, strict=True))
        return torch.autograd.grad(total, values)  # type: ignore[arg-type]

    for got, want in zip(product(torch.float32), product(torch.float64), strict=True):
        assert (got.double() - want).abs().max() < 1e-4 * want.abs().max().clamp(min=1e-3)


def test_a_forced_backend_without_these_derivatives_is_an_error(needs_native: None) -> None:
    call, (x, *others) = call_of(OPS["causal_conv1d"], torch.float32)
    with use_backend("cpu"):
        with pytest.raises(BackendError, match="'cpu' cannot run causal_conv1d: torch"):
            torch.func.grad(loss_of(call))(x, *others)
        with (
            torch.autograd.forward_ad.dual_level(),
            pytest.raises(BackendError, match="cannot run causal_conv1d: forward-mode AD"),
        ):
            call(torch.autograd.forward_ad.make_dual(x, x), *others)
        first = torch.autograd.grad(loss_of(call)(x, *others), x, create_graph=True)[0]
        with pytest.raises(BackendError, match="cannot run causal_conv1d: second derivatives"):
            first.sum().backward()


def test_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_said", set())
    call, tensors = call_of(OPS["causal_conv1d"])
    with caplog.at_level(logging.INFO, "vimzoo"):
        for _ in range(2):
            torch.func.jvp(call, tensors, tensors)
    messages = [r.message for r in caplog.records if "causal_conv1d" in r.message]
    assert len(messages) == 1 and "torch.func transforms" in messages[0] and "slower" in messages[0]


@pytest.mark.parametrize("name", ["selective_scan", "scan_paths"])
def test_autocast_under_torch_func(name: str) -> None:
    """Activations are narrowed, parameters and everything inside are not, as without the transform."""
    call, tensors = call_of(OPS[name], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.func.vjp(call, *tensors)[0]
        with use_backend("reference"):
            expected = call(*tensors)
    for got, want in zip(*((o,) if isinstance(o, Tensor) else o for o in (found, expected)), strict=True):
        assert got.dtype == want.dtype and torch.equal(got, want)


def test_inside_compiled_functions() -> None:
    """Transforms are compiled as they are; a second derivative of a compiled function is right or torch's own error."""
    torch._dynamo.reset()
    call, (x, *others) = call_of(OPS["causal_conv1d"])
    loss = loss_of(lambda x: call(x, *(t.detach() for t in others)))
    gradient = torch.func.grad(loss)
    compiled = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.detach()), gradient(x.detach()))

    def second(loss: Callable[[Tensor], Tensor]) -> Tensor:
        first = torch.autograd.grad(loss(x), x, create_graph=True)[0]
        return torch.autograd.grad(first.sum(), x)[0]

    try:
        found = second(torch.compile(loss, backend="aot_eager"))
    except RuntimeError as error:
        assert "does not currently support double backward" in str(error)
    else:  # torch may run the function uncompiled
        torch.testing.assert_close(found, second(loss))


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)], ids=str)
def test_float32_linear_keeps_tangents(shape: tuple[int, ...]) -> None:
    """`torch.func` and plain dual tensors alike, also where only the gradient of the output has a tangent."""
    x, weight, bias = torch.randn(shape), torch.randn(3, 6), torch.randn(3)
    tangents = tuple(torch.randn_like(t) for t in (x, weight, bias))
    want = torch.func.jvp(F.linear, (x, weight, bias), tangents)[1]
    assert torch.equal(torch.func.jvp(linear, (x, weight, bias), tangents)[1], want)
    y = linear(x.requires_grad_(), weight, bias)
    with torch.autograd.forward_ad.dual_level():
        dual = [
            torch.autograd.forward_ad.make_dual(t, v)
            for t, v in zip((x, weight, bias), tangents, strict=True)
        ]
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(linear(*dual)).tangent, want)
        gradient = torch.autograd.grad(y, x, torch.autograd.forward_ad.make_dual(torch.ones_like(y), want))[0]
        tangent = torch.autograd.forward_ad.unpack_dual(gradient).tangent
    torch.testing.assert_close(tangent, want @ weight)


def test_compiled_autograd() -> None:
    """The backward operators are nodes that torch's compiled autograd captures."""
    torch._dynamo.reset()
    results = []
    cases = [call_of(OPS[name], torch.float32) for name in REAL]
    for enabled in (False, True):
        total = sum(loss_of(call)(*tensors) for call, tensors in cases)
        with torch._dynamo.config.patch(compiled_autograd=enabled):
            if enabled:
                torch.compile(lambda t: t.backward(), backend="eager")(total)
            else:
                total.backward()  # type: ignore[union-attr]
        results.append([t.grad for _, tensors in cases for t in tensors])
        for _, tensors in cases:
            for t in tensors:
                t.grad = None
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def convolutions_trace_with_any_size() -> bool:
    """Whether torch traces the second derivative of its own convolution with symbolic sizes; up to 2.11 it raises."""

    def second(x: Tensor, weight: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(F.conv1d(x, weight, groups=2).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    x, weight = torch.randn(1, 2, 3, requires_grad=True), torch.randn(2, 1, 2)
    try:
        make_fx(second, tracing_mode="symbolic")(x, weight)
    except RuntimeError as error:
        assert "symbolic" in str(error)
        return False
    return True


def test_opcheck_of_a_backward_operator() -> None:
    """torch's own checks, with inputs that require gradients."""
    x, weight, grad = torch.randn(1, 3, 2), torch.randn(1, 2, 2), torch.randn(1, 3, 1, 2)
    args = tuple(t.double().requires_grad_() for t in (grad, x, weight))
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if convolutions_trace_with_any_size():
        utils.append("test_aot_dispatch_dynamic")
    operator = torch.ops.vimzoo.causal_conv1d_backward.default
    torch.library.opcheck(operator, (*args, None, [True], "silu"), test_utils=utils)
