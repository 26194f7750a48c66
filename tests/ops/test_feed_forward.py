"""Two products and an activation, for all tokens and for experts, and the layer that routes tokens to experts."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from vimzoo.layers import MoE, VSSBlock
from vimzoo.layers.moe import balance_loss
from vimzoo.ops import feed_forward, quantize_weight

FUNCTIONS = {
    "relu": torch.relu,
    "gelu": lambda v: v * 0.5 * (1 + torch.erf(v / math.sqrt(2))),
    "gelu_tanh": lambda v: v * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "silu": lambda v: v / (1 + torch.exp(-v)),
}
GATED = {"reglu": "relu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "swiglu": "silu"}
T, I, H, O, E = 11, 64, 96, 10, 3  # noqa: E741


def by_hand(x, w1, w2, b1, b2, act):
    hidden = x @ w1.T + b1
    if act in GATED:
        values, gates = hidden[:, : len(w1) // 2], hidden[:, len(w1) // 2 :]
        hidden = values * FUNCTIONS[GATED[act]](gates)
    else:
        hidden = FUNCTIONS[act](hidden)
    return hidden @ w2.T + b2


def parameters(act, *experts, dtype=torch.float64):
    torch.manual_seed(0)
    inner = H // 2 if act in GATED else H
    shapes = (H, I), (O, inner), (H,), (O,)
    return [torch.randn(*experts, *shape, dtype=dtype) / 4 for shape in shapes]


@pytest.mark.parametrize("act", [*FUNCTIONS, *GATED])
def test_values(act):
    w1, w2, b1, b2 = parameters(act)
    x = torch.randn(2, T, I, dtype=torch.float64)
    found = feed_forward(x, w1, w2, b1, b2, act=act)
    torch.testing.assert_close(found, torch.stack([by_hand(part, w1, w2, b1, b2, act) for part in x]))


@pytest.mark.parametrize("act", ["gelu", "swiglu"])
def test_gradients_with_experts(act):
    leaves = [p.requires_grad_() for p in parameters(act, E)]
    x = torch.randn(5, I, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *p: feed_forward(x, *p, act=act, expert_counts=[2, 0, 3]), (x, *leaves), fast_mode=True
    )


def test_each_expert_has_its_tokens_and_padding_is_zero():
    own = parameters("relu", E)
    x = torch.randn(T, I, dtype=torch.float64)
    counts = torch.tensor([4, 0, 7])
    wanted = torch.cat(
        [by_hand(x[:4], *(p[0] for p in own), "relu"), by_hand(x[4:], *(p[2] for p in own), "relu")]
    )
    torch.testing.assert_close(feed_forward(x, *own, act="relu", expert_counts=counts), wanted)
    ends = feed_forward(x, *own, act="relu", expert_ends=[4, 4, 9])
    torch.testing.assert_close(ends[:9], wanted[:9])
    assert (ends[9:] == 0).all()
    assert feed_forward(x[:0], *own, act="relu", expert_counts=[0, 0, 0]).shape == (0, O)


@pytest.mark.parametrize(
    ("bits", "group", "activations"), [(8, None, "float"), (4, 32, "float"), (8, None, "int8")]
)
def test_quantized_weights_with_experts(bits, group, activations):
    w1, w2, b1, b2 = parameters("geglu", E, dtype=torch.float32)
    q1, q2 = quantize_weight(w1, bits, group=group), quantize_weight(w2, bits, group=group)
    x = torch.randn(T, I)
    with torch.inference_mode():
        found = feed_forward(x, q1, q2, b1, b2, act="geglu", expert_counts=[5, 1, 5], activations=activations)
        widened = feed_forward(
            x, q1.dequantize(), q2.dequantize(), b1, b2, act="geglu", expert_counts=[5, 1, 5]
        )
    bound = 0.05 if activations == "int8" else 3e-5
    assert (found - widened).abs().max() <= bound * widened.std()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"act": "tanh"}, "act: expected one of"),
        ({"expert_counts": [5, 5, 5]}, "expert_counts: expected counts of at least 0 that add up to 11"),
        ({"expert_counts": [5, 6]}, r"expert_counts: expected \(3,\) whole numbers"),
        ({"expert_counts": [5.0, 6.0, 0.0]}, "whole numbers, got shape .* of torch.float32"),
        ({"expert_ends": [5, 4, 11]}, "expert_ends: expected rising numbers from 0 to 11"),
        ({"expert_ends": [5, 6, 12]}, "expert_ends: expected rising numbers from 0 to 11"),
        ({"expert_ends": [1, 2, 3], "expert_counts": [1, 2, 8]}, "expected at most one of them"),
        ({}, r"weight1: expected \(H, I\), got shape \(3, 96, 64\)"),
        ({"expert_counts": [5, 6, 0], "activations": "int8"}, "weight1: expected a quantized weight"),
        ({"expert_counts": [5, 6, 0], "x": torch.randn(T, I).half()}, "weight1: expected the dtype of x"),
        ({"expert_counts": [5, 6, 0], "x": torch.randn(1, T, I)}, r"x: expected \(T, I\) with experts"),
        ({"expert_counts": [5, 6, 0], "act": "swiglu"}, r"weight2: expected shape \(3, 10, 48\)"),
        ({"expert_counts": [5, 6, 0], "bias2": torch.zeros(3, 9)}, r"bias2: expected shape \(3, 10\)"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    w1, w2, b1, b2 = parameters("relu", E, dtype=torch.float32)
    given = {"x": torch.randn(T, I), "weight1": w1, "weight2": w2, "bias1": b1, "bias2": b2, "act": "relu"}
    with pytest.raises(ValueError, match=message):
        feed_forward(**{**given, **changed})


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("act", ["gelu", "swiglu"])
def test_a_mixture_adds_what_the_chosen_experts_give(top_k, act):
    torch.manual_seed(0)
    layer = MoE(16, 24, experts=3, top_k=top_k, act=act).double().eval()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    found, tokens = layer(x), x.view(-1, 16)
    odds = F.softmax(tokens @ layer.router.weight.T, -1)
    for token, odd, y in zip(tokens, odds, found.view(-1, 16), strict=True):
        chosen = odd.argsort(descending=True)[:top_k]
        factors = odd[chosen] if top_k == 1 else odd[chosen] / odd[chosen].sum()
        own = [(layer.weight1[e], layer.weight2[e], layer.bias1[e], layer.bias2[e]) for e in chosen.tolist()]
        wanted = sum(f * by_hand(token[None], *p, act)[0] for f, p in zip(factors, own, strict=True))
        torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-7)  # the router's softmax is float32


def test_capacity_drops_the_last_tokens_of_an_expert_in_training_only():
    torch.manual_seed(0)
    layer = MoE(8, 8, experts=2, capacity=0.5)
    with torch.no_grad():
        layer.router.weight.copy_(torch.tensor([[1.0] * 8, [-1.0] * 8]))
    x = torch.rand(12, 8) + 0.1  # all choose the first expert, which takes 0.5 * 12 / 2
    y = layer(x)
    assert (y != 0).any(1).tolist() == [True] * 3 + [False] * 9
    assert (layer.eval()(x) != 0).any(1).all()


def test_the_balancing_loss_is_least_when_experts_are_used_evenly():
    layer = MoE(2, 4, experts=2, balance=1.0)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(2) * 50)
    assert layer.loss is None and balance_loss(layer) == 0.0
    layer(torch.eye(2).repeat(4, 1))
    torch.testing.assert_close(balance_loss(layer), torch.tensor(1.0))
    layer(torch.eye(2)[:1].repeat(4, 1))
    torch.testing.assert_close(balance_loss(layer), torch.tensor(2.0))
    balance_loss(layer).backward()
    assert layer.router.weight.grad is not None
    assert copy.deepcopy(layer).loss is None


def test_a_block_with_experts_trains_and_is_refused_without():
    torch.manual_seed(0)
    block = VSSBlock(16, mlp="moe", mlp_ratio=2.0, mlp_args={"experts": 3, "top_k": 2})
    x = torch.randn(2, 4, 6, 16)
    (block(x).square().mean() + balance_loss(block)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    with pytest.raises(ValueError, match="mlp: expected 'dense' or 'moe', got 'sparse'"):
        VSSBlock(16, mlp="sparse")
    with pytest.raises(ValueError, match="mlp_args: expected None with mlp='dense'"):
        VSSBlock(16, mlp_args={"experts": 3})
