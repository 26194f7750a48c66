"""S4D: both forms solve its differential equation, and its initialisations are those of the paper."""

import math

import pytest
import torch
from torch import Tensor

from vimzoo.layers import S4D
from vimzoo.layers.s4d import initial_rates

INITS = ("lin", "inv", "legs", "real")


def make(init: str = "lin", form: str = "convolution", **options: object) -> S4D:
    torch.manual_seed(1)
    return S4D(6, 8, init, form=form, **options)  # type: ignore[arg-type]


def solved(layer: S4D, x: Tensor) -> Tensor:
    """The equation's solution in float64: each state exactly over every step, the input held."""
    delta = layer.log_dt.double().exp()
    A = -layer.log_A_real.double().exp() + 1j * (0 if layer.A_imag is None else layer.A_imag.double())
    C = layer.C.double()
    C = torch.complex(C[..., 0], C[..., 1] if C.shape[-1] == 2 else torch.zeros_like(C[..., 0]))
    decay = torch.exp(delta[:, None] * A)

    def one_way(x: Tensor, C: Tensor) -> Tensor:
        h, out = torch.zeros(len(x), *A.shape, dtype=torch.complex128), []
        for token in x.double().unbind(1):
            h = decay * h + (decay - 1) / A * token[..., None]
            out.append((C * h).sum(-1).real * (1 if layer.A_imag is None else 2))
        return torch.stack(out, 1)

    y = one_way(x, C[0]) + x.double() * layer.D.double()
    return y + one_way(x.flip(1), C[1]).flip(1) if layer.bidirectional else y


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["recurrence", "convolution"])
@pytest.mark.parametrize("init", INITS)
def test_both_forms_solve_the_equation(init: str, form: str, bidirectional: bool) -> None:
    layer, x = make(init, form, bidirectional=bidirectional), torch.randn(2, 37, 6)
    x.requires_grad_()
    y, want = layer(x), solved(layer, x)
    assert (y - want).abs().max() < 1e-5 * want.std()
    weights = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    got = torch.autograd.grad((y * weights).sum(), inputs)
    expected = torch.autograd.grad((want * weights).sum(), inputs)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).norm() < 1e-5 * e.norm()


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 100])
def test_every_length(length: int) -> None:
    x = torch.randn(1, length, 6)
    for init in INITS:
        want = solved(make(init), x)
        for form in ("recurrence", "convolution"):
            assert (make(init, form)(x) - want).abs().max() < 1e-5 * max(1.0, want.abs().max().item())


def test_the_kernel_answers_an_impulse() -> None:
    layer = make("inv")
    impulse = torch.zeros(1, 20, 6)
    impulse[:, 0] = 1
    answer = layer(impulse)[0].mT
    answer[:, 0] -= layer.D
    torch.testing.assert_close(layer.kernel(20)[0], answer, atol=1e-5, rtol=1e-4)


def test_initial_rates_of_the_paper() -> None:
    assert torch.allclose(initial_rates("lin", 8).imag, torch.tensor([0, 1, 2, 3]).double() * math.pi)
    inverse = [8 / math.pi * (8 / (2 * n + 1) - 1) for n in range(4)]
    assert initial_rates("inv", 8).imag.tolist() == pytest.approx(inverse)
    assert initial_rates("real", 3).tolist() == [-1, -2, -3]
    # S4-LegS: HiPPO's matrix plus half the outer product of sqrt(2 n + 1) with itself is normal
    n = torch.arange(8).double()
    hippo = -((2 * n[:, None] + 1) * (2 * n + 1)).sqrt().tril(-1) - torch.diag(n + 1)
    normal = hippo + (2 * n[:, None] + 1).sqrt() * (2 * n + 1).sqrt() / 2
    values = torch.linalg.eigvals(normal)
    want = values[values.imag > 0].imag.sort().values
    assert torch.allclose(initial_rates("legs", 8).imag, want) and torch.allclose(
        values.real, -torch.ones(8).double() / 2
    )


def test_half_precision_and_state_dicts() -> None:
    x = torch.randn(2, 30, 6)
    want = make("real")(x)
    for init in ("real", "lin"):
        layer = make(init)
        want = layer(x)
        got = layer.bfloat16()(x.bfloat16())
        assert got.dtype is torch.bfloat16 and (got - want).abs().max() < 4e-2 * want.abs().max()
    other = S4D(6, 8)
    other.load_state_dict(make("lin").state_dict())
    assert torch.equal(other(x), make("lin")(x))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"d_state": 7}, "d_state: expected an even number"),
        ({"init": "legt"}, "init: expected one of"),
        ({"form": "fft"}, "form: expected one of"),
        ({"dt_min": 0.0}, "dt_min: expected 0 < dt_min"),
        ({"dim": 0}, "dim: expected a positive whole number"),
    ],
)
def test_bad_arguments(words: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        S4D(**{"dim": 6, **words})
    with pytest.raises(ValueError, match="x: expected tokens of width 6, got 5"):
        make()(torch.zeros(1, 3, 5))
