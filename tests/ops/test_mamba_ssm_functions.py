"""mamba_ssm's functions: the mixer as one call against our mixer, the scan against the recurrence itself."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.compat import mamba_ssm

CLOSE = dict(rtol=2e-4, atol=2e-5)


def mixer(kind: str, **options) -> mamba_ssm.Mamba:
    torch.manual_seed(0)
    return mamba_ssm.Mamba(12, d_state=3, bimamba_type=kind, **options)


def parts(module: mamba_ssm.Mamba, k: int) -> tuple:
    """Direction k's weights as the functions take them before and after the output projection's."""
    ssm, conv = module.ssm, module.conv
    own, shared = min(k, len(conv.weight) - 1), min(k, len(ssm.x_proj) - 1)
    bias = None if conv.bias is None else conv.bias[own]
    before = (conv.weight[own].unsqueeze(1), bias, ssm.x_proj[shared], ssm.dt_proj[shared])
    after = dict(D=ssm.D[shared], delta_bias=ssm.dt_bias[shared], delta_softplus=True)
    return before, -ssm.A_log[k].exp(), after


def gradients(output: Tensor, module: nn.Module) -> dict[str, Tensor]:
    found = torch.autograd.grad((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum(),
                                list(module.parameters()))  # fmt: skip
    return dict(zip((name for name, _ in module.named_parameters()), found, strict=True))


def by_functions(module: mamba_ssm.Mamba, kind: str, x: Tensor, suffix: str = "fn") -> Tensor:
    xz = F.linear(x, module.in_proj.weight, module.in_proj.bias).transpose(1, 2)
    out = (module.out_proj.weight, module.out_proj.bias)
    before, A, after = parts(module, 0)
    if kind == "none":
        return getattr(mamba_ssm, f"mamba_inner_{suffix}")(xz, *before, *out, A, **after)
    if kind == "v1":
        A_b = parts(module, 1)[1]
        return getattr(mamba_ssm, f"bimamba_inner_{suffix}")(xz, *before, *out, A, A_b, **after)
    before_b, A_b, after_b = parts(module, 1)
    forward = mamba_ssm.mamba_inner_fn_no_out_proj(xz, *before, A, **after)
    backward = mamba_ssm.mamba_inner_fn_no_out_proj(xz.flip(-1), *before_b, A_b, **after_b)
    return F.linear((forward + backward.flip(-1)).transpose(1, 2), *out)


@pytest.mark.parametrize("options", [{}, dict(bias=True, conv_bias=False, d_conv=3)], ids=str)
@pytest.mark.parametrize("kind", ["none", "v1", "v2"])
def test_the_mixer_as_one_call(kind: str, options: dict) -> None:
    module, x = mixer(kind, **options), torch.randn(2, 9, 12)
    got, want = by_functions(module, kind, x), module(x)
    torch.testing.assert_close(got, want, **CLOSE)
    expected = gradients(want, module)
    for name, gradient in gradients(got, module).items():
        torch.testing.assert_close(gradient, expected[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    if kind != "v2":
        torch.testing.assert_close(by_functions(module, kind, x, "ref"), want, **CLOSE)


def recurrence(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False
) -> tuple[Tensor, Tensor]:
    """``h = exp(delta A) h + delta B u``, ``y = C h + D u``, by a loop over positions in double precision.

    B and C are ``(batch, N, L)``. Of complex numbers the real part counts twice, for the conjugate states.
    """
    step = delta.double() if delta_bias is None else delta.double() + delta_bias.double()[:, None]
    step = F.softplus(step) if delta_softplus else step
    states = torch.zeros(
        *u.shape[:2], A.shape[1], dtype=torch.complex128 if A.is_complex() else torch.float64
    )
    rows = []
    for i in range(u.shape[2]):
        dt = step[:, :, i, None]
        states = torch.exp(dt * A) * states + dt * B[:, None, :, i] * u.double()[:, :, i, None]
        y = (states * C[:, None, :, i]).sum(-1)
        rows.append(2 * y.real if A.is_complex() else y)
    y = torch.stack(rows, -1)
    y = y if D is None else y + D.double()[:, None] * u
    return (y if z is None else y * F.silu(z.double())), states


@pytest.mark.parametrize("complex_A", [False, True])
def test_the_plain_scan_is_the_recurrence(complex_A: bool) -> None:
    torch.manual_seed(1)
    u, delta, z = (torch.randn(2, 4, 7) for _ in range(3))
    A = -torch.rand(4, 3) + (1j * torch.randn(4, 3) if complex_A else 0)
    rows = torch.randn(2, 2, 3, 7, 2 if complex_A else 1)
    B, C = torch.view_as_complex(rows) if complex_A else rows[..., 0]
    D, bias = torch.randn(4), torch.randn(4)
    given = [rows[i].flatten(2) for i in range(2)]  # complex numbers as pairs along L
    want = recurrence(u, delta, A, B, C, D, z, bias, True)
    got = mamba_ssm.selective_scan_ref(u, delta, A, *given, D, z, bias, True, True)
    for ours, truth in zip(got, want, strict=True):
        torch.testing.assert_close(ours.to(truth.dtype), truth, **CLOSE)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("complex_A", [False, True])
def test_inner_functions_by_hand(complex_A: bool, bidirectional: bool) -> None:
    """Convolution, projections, biases of B and C, scan, gate and output projection, written out."""
    torch.manual_seed(2)
    dim, states, rank, length, width = 4, 3, 2, 6, 3
    xz = torch.randn(2, 2 * dim, length)
    weight, bias = torch.randn(dim, 1, width), torch.randn(dim)
    numbers = states * (2 if complex_A else 1)
    x_proj, dt_proj = torch.randn(rank + 2 * numbers, dim), torch.randn(dim, rank)
    out, out_bias, D, dt_bias = torch.randn(5, dim), torch.randn(5), torch.randn(dim), torch.randn(dim)
    A, A_b = (
        -torch.rand(dim, states) + (1j * torch.randn(dim, states) if complex_A else 0) for _ in range(2)
    )
    B_bias, C_bias = torch.randn(numbers), torch.randn(numbers)

    x, z = xz.double().chunk(2, 1)
    x = F.silu(F.conv1d(F.pad(x, (width - 1, 0)), weight.double(), bias.double(), groups=dim))
    dt, B, C = torch.einsum("cd,bdl->bcl", x_proj.double(), x).split([rank, numbers, numbers], 1)
    B, C = B + B_bias[:, None], C + C_bias[:, None]
    if complex_A:  # neighbouring rows are the two parts of a number
        B, C = (torch.complex(*rows.unflatten(1, (states, 2)).unbind(2)) for rows in (B, C))
    delta = torch.einsum("dr,brl->bdl", dt_proj.double(), dt)
    y = recurrence(x, delta, A, B, C, D, z, dt_bias, True)[0]
    if bidirectional:
        y = y + recurrence(*(t.flip(-1) for t in (x, delta)), A_b, *(t.flip(-1) for t in (B, C)), D, z.flip(-1),
                           dt_bias, True)[0].flip(-1)  # fmt: skip
    want = y.transpose(1, 2) @ out.double().T + out_bias

    function = mamba_ssm.bimamba_inner_fn if bidirectional else mamba_ssm.mamba_inner_fn
    directions = (A, A_b) if bidirectional else (A,)
    got = function(
        xz, weight, bias, x_proj, dt_proj, out, out_bias, *directions, None, None, D, dt_bias, B_bias, C_bias
    )
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


def test_given_B_and_C_replace_the_computed_ones() -> None:
    module, x = mixer("none"), torch.randn(2, 9, 12)
    xz = F.linear(x, module.in_proj.weight).transpose(1, 2)
    before, A, after = parts(module, 0)
    zero = torch.zeros(A.shape)
    y = mamba_ssm.mamba_inner_fn_no_out_proj(xz, *before, A, zero, None, **after)
    inner, z = xz.chunk(2, 1)
    u = F.silu(F.conv1d(F.pad(inner, (3, 0)), before[0], before[1], groups=24))
    torch.testing.assert_close(y, u * after["D"][:, None] * F.silu(z), **CLOSE)


def test_norms_of_the_inner_function_are_refused() -> None:
    module = mixer("none")
    before, A, after = parts(module, 0)
    with pytest.raises(NotImplementedError, match="b_rms_weight"):
        mamba_ssm.mamba_inner_fn(
            torch.zeros(1, 48, 3),
            *before,
            module.out_proj.weight,
            None,
            A,
            **after,
            b_rms_weight=torch.ones(3),
        )


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(rms: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    x, residual = torch.randn(2, 5, 8).to(dtype), torch.randn(2, 5, 8)
    weight, bias, rows = torch.rand(8) + 0.5, torch.randn(8), torch.rand(2, 5)
    function = mamba_ssm.rms_norm_fn if rms else mamba_ssm.layer_norm_fn

    def norm(stream: Tensor) -> Tensor:
        plain = (
            F.rms_norm(stream, (8,), weight, 1e-6) + bias
            if rms
            else F.layer_norm(stream, (8,), weight, bias, 1e-6)
        )
        return plain.to(dtype)

    close = CLOSE if dtype == torch.float32 else dict(rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(function(x, weight, bias), norm(x.float()), **close)
    y, stream = function(x, weight, bias, residual, prenorm=True)
    torch.testing.assert_close(stream, x + residual, **close)
    torch.testing.assert_close(y, norm(x + residual), **close)
    assert stream.dtype == torch.float32
    assert function(x, weight, bias, prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32
    assert function(x, weight, bias, prenorm=True)[1].dtype == dtype
    scaled = function(x, weight, bias, rowscale=rows, prenorm=True)[1]
    torch.testing.assert_close(scaled.float(), x.float() * rows[..., None], **close)
    dropped = function(x, weight, bias, dropout_p=0.5, prenorm=True)[1]
    kept = dropped != 0
    assert kept.any() and not kept.all()
    torch.testing.assert_close(dropped[kept], 2 * x[kept], **close)
    with pytest.raises(NotImplementedError, match="x1"):
        function(x, weight, bias, x1=x)


def test_the_norm_as_a_layer() -> None:
    layer, x, residual = (
        mamba_ssm.RMSNorm(8, eps=1e-3, dropout_p=0.5),
        torch.randn(2, 5, 8),
        torch.randn(2, 5, 8),
    )
    nn.init.normal_(layer.weight)
    y, stream = layer.eval()(x, residual, prenorm=True)
    torch.testing.assert_close(y, F.rms_norm(x + residual, (8,), layer.weight, 1e-3))
    torch.testing.assert_close(stream, x + residual)
    assert not torch.equal(layer.train()(x), layer.eval()(x)) and set(layer.state_dict()) == {"weight"}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("", "Mamba selective_scan_fn mamba_inner_fn"),
        (".modules.mamba_simple", "Mamba"),
        (
            ".ops.selective_scan_interface",
            "selective_scan_fn selective_scan_ref mamba_inner_fn mamba_inner_ref",
        ),
        (".ops.triton.layer_norm", "RMSNorm layer_norm_fn rms_norm_fn"),
        (".utils.generation", "GenerationMixin"),
        (".utils.hf", "load_config_hf load_state_dict_hf"),
    ],
)
def test_import_lines_of_the_three_repositories(module: str, names: str) -> None:
    found = importlib.import_module(f"vimzoo.compat.mamba_ssm{module}")
    assert all(hasattr(found, name) for name in names.split())
