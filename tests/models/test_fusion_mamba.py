"""The spectral FusionMamba against its formulas, token by token in float64, at every kind of scale."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vimzoo.models import SpectralFusionMamba
from vimzoo.models.inputs import input_shapes

Weights = Mapping[str, Tensor]


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in weights.items()
        if name.startswith(f"{prefix}.")
    }


def norm(w: Weights, x: Tensor) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * w["weight"] + w["bias"]


def one_path(w: Weights, k: int, x: Tensor, guide: Tensor | None) -> Tensor:
    """Convolution and recurrence along tokens ``(L, C)`` that are in the order of path ``k``."""
    conv = under(w, "column_conv" if k > 1 else "row_conv")
    taps, bias = conv["weight"][k % 2], conv["bias"][k % 2]
    past = F.pad(x, (0, 0, taps.shape[1] - 1, 0))
    u = F.silu(sum(past[j : j + len(x)] * taps[:, j] for j in range(taps.shape[1])) + bias)
    ssm = {name: value[k] for name, value in under(w, "ssm").items()}
    rows = (u if guide is None else guide @ w["guide_proj.weight"].T) @ ssm["x_proj"].T
    rank, states = ssm["dt_proj"].shape[1], ssm["A_log"].shape[1]
    dt, b, c = rows.split([rank, states, states], dim=1)
    steps = F.softplus(dt @ ssm["dt_proj"].T + ssm["dt_bias"])
    state, found = torch.zeros_like(ssm["A_log"]), []
    for t in range(len(u)):
        decay = (steps[t, :, None] * -ssm["A_log"].exp()).exp()
        state = decay * state + (steps[t] * u[t])[:, None] * b[t]
        found.append(state @ c[t] + ssm["D"] * u[t])
    return torch.stack(found)


def mixer(w: Weights, x: Tensor, guide: Tensor | None = None) -> Tensor:
    """A map ``(H, W, C)``, read along rows and, if the weights have them, columns, forward and backward."""
    height, width, channels = x.shape
    inner, z = (x.reshape(-1, channels) @ w["in_proj.weight"].T).chunk(2, dim=1)
    grid = torch.arange(height * width).reshape(height, width)
    orders = [grid.flatten(), grid.flatten().flip(0)]
    if "column_conv.weight" in w:
        orders += [grid.T.flatten(), grid.T.flatten().flip(0)]
    total = torch.zeros_like(inner)
    for k, order in enumerate(orders):
        part = None if guide is None else guide.reshape(-1, channels)[order]
        total = total.index_add(0, order, one_path(w, k, inner[order], part))
    y = norm(under(w, "norm"), total * F.silu(z) / len(orders))
    return (y @ w["out_proj.weight"].T).reshape(x.shape)


def mixed(w: Weights, x: Tensor, guide: Tensor | None = None) -> Tensor:
    other = None if guide is None else norm(under(w, "guide_norm"), guide)
    return x + mixer(under(w, "mixer"), norm(under(w, "norm"), x), other)


def conv(w: Weights, x: Tensor, **options: int) -> Tensor:
    """A convolution of a map with channels last."""
    y = F.conv2d(x.permute(2, 0, 1)[None], w["weight"], w.get("bias"), **options)
    return y[0].permute(1, 2, 0)


def step(w: Weights, x: Tensor, skip: Tensor | None) -> Tensor:
    proj = under(w, "proj")
    if skip is None:
        return F.leaky_relu(conv(proj, x, stride=2))
    y = F.conv_transpose2d(x.permute(2, 0, 1)[None], proj["weight"], proj["bias"], stride=2)[0].permute(
        1, 2, 0
    )
    y = F.leaky_relu(y) + skip
    y = conv(under(w, "smooth.0"), y, padding=1, groups=y.shape[2])
    return F.leaky_relu(conv(under(w, "smooth.1"), y))


def plain(w: Weights, x: Tensor, guide: Tensor, scale: int) -> Tensor:
    """One image ``(bands, h, w)`` and its guide -> ``(bands, scale h, scale w)``."""
    bands, height, width = x.shape
    maps = conv(under(w, "enlarge"), x.permute(1, 2, 0), padding=1).reshape(
        height, width, bands, scale, scale
    )
    enlarged = maps.permute(0, 3, 1, 4, 2).reshape(height * scale, width * scale, bands)
    fine = F.leaky_relu(conv(under(w, "pan_stem"), guide.permute(1, 2, 0), padding=1))
    many = F.leaky_relu(conv(under(w, "band_stem"), enlarged, padding=1))
    skips: list[tuple[Tensor, Tensor]] = []
    for i in range(5):
        block = under(w, f"blocks.{i}")
        fine, many = mixed(under(block, "pan"), fine), mixed(under(block, "bands"), many)
        joined = mixed(under(block, "pan_guided"), fine, many) + mixed(
            under(block, "bands_guided"), many, fine
        )
        joined = joined / 2 @ block["proj.weight"].T + block["proj.bias"]
        if i == 4:
            break
        fine, many = (fine + joined) / 2, (many + joined) / 2
        if i < 2:
            skips.append((fine, many))
        other = (None, None) if i < 2 else skips.pop()
        fine, many = (
            step(under(w, f"steps.{i}"), y, skip) for y, skip in zip((fine, many), other, strict=True)
        )
    hidden = F.leaky_relu(conv(under(w, "head.0"), joined, padding=1))
    residual = conv(under(w, "head.2"), hidden, padding=1)
    gate = under(w, "band_gate")
    largest = x.amax((1, 2))[:, None] @ gate["raise_dim.weight"].T + gate["raise_dim.bias"]
    tokens = mixer(under(gate, "mixer"), norm(under(gate, "norm"), largest)[None])[0]
    factors = (tokens @ gate["lower_dim.weight"].T + gate["lower_dim.bias"]).sigmoid()[:, 0]
    return (residual * factors + enlarged).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("scale", "size", "guide_chans"),
    [(1, (8, 4), 1), (2, (4, 6), 3), (3, (4, 4), 1), (4, (2, 3), 1), (8, (1, 1), 2)],
)
def test_every_scale_agrees_with_the_formulas(scale: int, size: tuple[int, int], guide_chans: int) -> None:
    """In float64, the output and the gradients of inputs and weights."""
    torch.manual_seed(scale)
    model = SpectralFusionMamba(4, guide_chans, 3, scale, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases begin with ones and zeros
            parameter.add_(0.2 * torch.randn_like(parameter))
    shapes = input_shapes(model, size).values()
    inputs = [torch.randn(2, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    output = model(*inputs)
    assert output.shape == (2, 3, scale * size[0], scale * size[1])
    weights = dict(model.named_parameters())
    want = torch.stack([plain(weights, x, guide, scale) for x, guide in zip(*inputs, strict=True)])
    assert (output - want).abs().max() < 1e-10
    probe, leaves = torch.randn_like(want), [*inputs, *weights.values()]
    found, expected = (torch.autograd.grad(y, leaves, probe) for y in (output, want))
    for gradient, other in zip(found, expected, strict=True):
        assert (gradient - other).abs().max() < 1e-10 * max(1.0, other.abs().max().item())
