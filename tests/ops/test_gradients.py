"""What runs in place of torch's operators in training has their gradients, and only where nothing has to see them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vimzoo.layers.plain import apply_conv, apply_norm
from vimzoo.ops import training, use_backend
from vimzoo.ops.runtime import native, threads

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason="there is no native library here")
DTYPES = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""Greatest error as a share of the greatest value."""


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions of `vimzoo.ops.training` that are called."""
    names: list[str] = []

    def counting(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: object) -> Tensor:
            names.append(name)
            return function(*args)

        return counted

    for name in ("layer_norm", "depthwise", "linear"):
        room = training if hasattr(training, name) else apply_conv.__globals__
        target = room if isinstance(room, dict) else vars(room)
        monkeypatch.setitem(target, name, counting(name, target[name]))
    return names


def check(
    layer: nn.Module, call: Callable[[Tensor], Tensor], truth: Callable[..., Tensor], x: Tensor
) -> None:
    """Output and gradients against ``truth(x, weight, bias)`` in float64."""
    bound = DTYPES[x.dtype]
    given = [x.detach().requires_grad_(), *layer.parameters()]
    exact = [t.detach().double().requires_grad_() for t in given]
    y, wanted = call(given[0]), truth(*exact)
    grad = torch.randn(y.shape).to(y.dtype)
    assert y.dtype == x.dtype and y.shape == wanted.shape
    found = torch.autograd.grad(y, given, grad)
    for got, want in zip(
        (y, *found), (wanted, *torch.autograd.grad(wanted, exact, grad.double())), strict=True
    ):
        assert got.shape == want.shape
        assert (got.double() - want).abs().max() < bound * max(want.abs().max().item(), 1e-3)
    for got, like in zip(found, given, strict=True):
        assert got.dtype == like.dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [3, 16, 60, 129])
def test_layer_norm(channels: int, dtype: torch.dtype, used: list[str]) -> None:
    wide = torch.randn(2, 3, 5, 2 * channels).to(dtype) + 3
    x = wide.chunk(2, dim=-1)[1]
    for bias in (True, False):
        layer = nn.LayerNorm(channels, bias=bias)
        nn.init.normal_(layer.weight)

        def truth(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.layer_norm(x, (channels,), weight, bias)

        check(layer.to(dtype), lambda x: apply_norm(layer, x), truth, x)  # noqa: B023
        check(layer.float(), lambda x: apply_norm(layer, x), truth, x)  # noqa: B023  mixed, as torch allows
    assert used == ["layer_norm"] * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(1, 1, 1), (1, 5, 16), (4, 1, 30), (3, 4, 33), (9, 7, 60)]
)
@pytest.mark.parametrize(("bias", "distance"), [(True, 1), (False, 1), (True, 2), (False, 4)])
def test_depthwise(
    height: int, width: int, channels: int, bias: bool, distance: int, dtype: torch.dtype, used: list[str]
) -> None:
    x = torch.randn(2, height, width, 2 * channels).to(dtype).chunk(2, dim=-1)[1]
    layer = nn.Conv2d(channels, channels, 3, 1, distance, distance, channels, bias).to(dtype)

    def truth(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 1, distance, distance, channels)
        return y.permute(0, 2, 3, 1)

    check(layer, lambda x: apply_conv(layer, x), truth, x)
    assert used == ["depthwise"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pixel_by_pixel(dtype: torch.dtype, used: list[str]) -> None:
    layer = nn.Conv2d(12, 20, 1).to(dtype)

    def truth(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight.flatten(1), bias)

    check(layer, lambda x: apply_conv(layer, x), truth, torch.randn(2, 5, 3, 12).to(dtype))
    assert used == ["linear"]


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor]]] = {
    "norm": (lambda: nn.LayerNorm(24), apply_norm),
    "depthwise": (lambda: nn.Conv2d(24, 24, 3, padding=2, dilation=2, groups=24), apply_conv),
    "pixel by pixel": (lambda: nn.Conv2d(24, 12, 1), apply_conv),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_gradients(name: str) -> None:
    make, apply = LAYERS[name]
    layer, x = make(), torch.randn(2, 5, 4, 24, requires_grad=True)

    def second(call: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        given = (x, *layer.parameters())
        first = torch.autograd.grad(call(x).square().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), given)  # type: ignore[arg-type]

    def plain(x: Tensor) -> Tensor:
        return layer(x) if name == "norm" else layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    for got, want in zip(second(lambda x: apply(layer, x)), second(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("name", LAYERS)
def test_only_what_needs_a_gradient_gets_one(name: str) -> None:
    make, apply = LAYERS[name]
    layer, x = make(), torch.randn(2, 5, 4, 24)
    for frozen in ((), ("bias",), ("weight",), ("weight", "bias")):
        for key, parameter in layer.named_parameters():
            parameter.requires_grad_(key not in frozen).grad = None
        for wanted in (False, True):
            if not wanted and len(frozen) == 2:
                assert not apply(layer, x).requires_grad
                continue
            given = x.clone().requires_grad_(wanted)
            apply(layer, given).sum().backward()
            assert (given.grad is not None) is wanted
            assert all((p.grad is not None) is (key not in frozen) for key, p in layer.named_parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_has_the_dtypes_of_torch(name: str, used: list[str]) -> None:
    make, apply = LAYERS[name]
    layer = make()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 5, 4, 24, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = apply(layer, x)
            plain = layer(x) if name == "norm" else layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert y.dtype == plain.dtype
        assert (y - plain).abs().max() <= 2**-7 * plain.abs().max()
        y.sum().backward()
        assert x.grad.dtype == dtype and all(p.grad.dtype == torch.float32 for p in layer.parameters())  # type: ignore[union-attr]
    assert len(used) == 2


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_do_not_depend_on_the_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, apply = LAYERS[name]
    layer, x = make(), torch.randn(3, 17, 9, 24, requires_grad=True)
    found = []
    for number in (1, 2, 5):
        monkeypatch.setattr(threads, "for_work", lambda _, number=number: number)
        found.append(torch.autograd.grad(apply(layer, x).square().sum(), (x, *layer.parameters())))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_torch_runs_where_something_watches(name: str, used: list[str]) -> None:
    make, apply = LAYERS[name]
    layer, x = make(), torch.randn(2, 5, 4, 24)
    expected = apply(layer, x)
    used.clear()
    with FlopCounterMode(display=False) as flops:
        apply(layer, x)
    assert (flops.get_total_flops() > 0) is (name != "norm")
    with use_backend("reference"):
        torch.testing.assert_close(apply(layer, x), expected)
    torch.testing.assert_close(torch.compile(apply, backend="eager")(layer, x), expected)
    torch.testing.assert_close(torch.func.vmap(lambda one: apply(layer, one[None])[0])(x), expected)
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, y: seen.append(y))
    apply(layer, x)
    assert not used and len(seen) == 1
    with pytest.raises(RuntimeError):
        apply(make(), x[..., :5])
    with pytest.raises(RuntimeError):
        apply(make().double(), x)


def test_an_empty_map() -> None:
    for make, apply in LAYERS.values():
        x = torch.randn(0, 5, 4, 24, requires_grad=True)
        apply(make(), x).sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape


def test_the_default_dtype_changes_nothing() -> None:
    """Kernels write float32 whatever torch's default is."""
    layer, x = nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(1, 4, 4, 8)
    found = []
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            found.append(torch.autograd.grad(apply_conv(layer, x).sum(), tuple(layer.parameters())))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*found, strict=True))
