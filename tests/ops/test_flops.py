"""Every counter of operations that can see the operators counts the same."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from ops_helpers import PLAIN, path_inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from tools.cards.sizes import size_of
from vimzoo.layers import SS2D
from vimzoo.ops import CROSS, ScanPath, linear, scan_paths
from vimzoo.ops.runtime.flops import graph_handles, papers_flops

SHAPES = {"test_vim": (3, 64, 64), "test_vmamba": (3, 32, 32), "test_mambair": (3, 8, 8)}


@pytest.mark.parametrize("name", SHAPES)
def test_models_on_the_cpu_count_what_their_cards_say(name: str) -> None:
    """With and without gradients; the backward pass of our operators and of products counts twice as much."""
    model, image = timm.create_model(name).eval(), torch.rand(1, *SHAPES[name], requires_grad=True)
    expected = size_of(name, SHAPES[name]).flops
    for grad in (True, False):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            output = model(image)
        assert counter.get_total_flops() == expected
        if grad:
            forward = counter.get_flop_counts()["Global"]
            with FlopCounterMode(display=False) as counter:
                output.sum().backward()
            backward = counter.get_flop_counts()["Global"]
            scan, scan_backward = torch.ops.vimzoo.scan_paths, torch.ops.vimzoo.scan_paths_backward
            assert backward[scan_backward] == 2 * forward[scan] > 0
            products = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
            assert (
                sum(backward.get(p, 0) for p in products) == 2 * sum(forward.get(p, 0) for p in products) > 0
            )


def test_attention_counts_on_the_cpu() -> None:
    """Fused or not: as many operations as on meta, and twice as many backward.

    Torch alone counts 0 up to 2.14. From 2.15 it has formulas of its own, whose backward counts the product that the
    fused kernel computes once more.
    """
    counts = []
    for device in ("cpu", "meta"):
        q, k, v = (
            torch.zeros(2, 3, length, width, device=device, requires_grad=True)
            for length, width in ((7, 4), (5, 4), (5, 4))
        )
        with FlopCounterMode(display=False) as forward:
            y = F.scaled_dot_product_attention(q, k, v)
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    products = 2 * 3 * 7 * 5 * (4 + 4)
    (forward_cpu, backward_cpu), on_meta = counts
    assert forward_cpu == 2 * products and on_meta == (2 * products, 4 * products)
    assert backward_cpu in (4 * products, 5 * products)

    small = dict(embed_dim=16, depths=(2,), num_heads=2, window=8, d_state=2, num_tokens=8, rank=4)
    model = timm.create_model("mambairv2_light_x2", **small).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 24, 16))
    assert counter.get_total_flops() == size_of("mambairv2_light_x2", (3, 24, 16), **small).flops


def test_any_dispatch_mode_sees_products() -> None:
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func.overloadpacket in flop_registry
            return func(*args, **(kwargs or {}))

    x, weight = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    with Products() as products:
        y = linear(x, weight)
        assert products.count == 1
        y.sum().backward()
        assert products.count == 3
    y = linear(x, weight)
    with Products() as products:  # also where only the backward pass is inside
        y.sum().backward()
    assert products.count == 2


def test_a_scan_counts_its_steps() -> None:
    """Not its tokens: a path visits as many as it likes."""
    tensors = path_inputs(2, 6, 5, 2, 8, 3, optional="D")
    paths = (ScanPath.from_table([2, -1, 0]), ScanPath.from_table([5, 5, 1]))
    with FlopCounterMode(display=False) as counter:
        scan_paths(**tensors, paths=paths)  # type: ignore[arg-type]
    assert counter.get_total_flops() == 2 * 3 * 5 * 2 * (9 * 8 + 2 + 2 * 3)
    shapes = [None if t is None else tuple(t.shape) for t in tensors.values()]
    assert papers_flops("scan_paths", *shapes, [-1, -1], (2, 3), 1, 6) == 2 * 3 * 5 * 2 * (9 * 8 + 2 + 3)


def test_handles_of_a_traced_graph() -> None:
    """fvcore's interface: the values of a node, and what papers count. The scan is inside a scripted function."""
    mixer, x = SS2D(16).eval(), torch.randn(1, 4, 6, 16)
    inner, states, rank = mixer.ssm.dim, mixer.ssm.d_state, mixer.ssm.dt_rank
    graph = torch.jit._get_trace_graph(mixer, x)[0]
    handles, found = graph_handles(), {}
    for node in graph.nodes():
        if handle := handles.get(node.kind()):
            found[node.kind()] = found.get(node.kind(), 0) + handle(list(node.inputs()), list(node.outputs()))
    assert found["prim::CallFunction"] == 24 * inner * len(CROSS) * (9 * states + 2 + rank)
    assert found["vimzoo::linear"] == 24 * inner * len(CROSS) * (rank + 2 * states)


@pytest.mark.parametrize("name", SHAPES)
def test_counters_of_a_traced_graph_agree_with_the_cards(name: str) -> None:
    """fvcore's counts of convolutions and products with our handles beside them, which replace its own for norms."""
    model, image = timm.create_model(name).eval(), torch.rand(1, *SHAPES[name])

    def products(inputs: Any, outputs: Any) -> int:
        return prod(inputs[0].type().sizes()) * inputs[1].type().sizes()[0]

    def convolution(inputs: Any, outputs: Any) -> int:
        return prod(outputs[0].type().sizes()) * prod(inputs[1].type().sizes()[1:])

    def five_per_element(inputs: Any, outputs: Any) -> int:
        return 5 * prod(outputs[0].type().sizes())

    fvcore = {"aten::_convolution": convolution, "aten::linear": products}
    fvcore |= dict.fromkeys(("aten::layer_norm", "aten::batch_norm", "aten::group_norm"), five_per_element)
    handles = fvcore | graph_handles()
    nodes = [n for n in torch.jit._get_trace_graph(model, image)[0].nodes() if n.kind() in handles]
    total = sum(handles[n.kind()](list(n.inputs()), list(n.outputs())) for n in nodes)
    assert total == size_of(name, SHAPES[name]).paper_flops


def test_handle_of_attention() -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    tensors = (torch.rand(2, 3, 7, 4), torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 6), torch.rand(7, 5))
    graph = torch.jit._get_trace_graph(Attention(), tensors)[0]
    (node,) = (n for n in graph.nodes() if n.kind() == "aten::scaled_dot_product_attention")
    count = graph_handles()[node.kind()](list(node.inputs()), list(node.outputs()))
    assert count == 2 * 3 * 7 * 5 * (4 + 6)


def test_papers_count_of_a_product() -> None:
    x, weight = Tensor(2, 7, 6), Tensor(3, 6)
    assert papers_flops("linear", x.shape, weight.shape, None) == 2 * 7 * 6 * 3
    assert papers_flops("linear", (2, 7, 4, 6), (4, 3, 6), None) == 2 * 7 * 4 * 6 * 3


@pytest.mark.parametrize("name", PLAIN)
def test_operators_count_the_same_on_meta(name: str) -> None:
    """A device without memory and without autocast; shapes and counts are those of the CPU."""
    function, make, settings = PLAIN[name]
    counts, shapes = [], []
    for device in ("cpu", "meta"):
        tensors = {k: None if t is None else t.to(device).requires_grad_() for k, t in make().items()}
        with FlopCounterMode(display=False) as counter:
            outputs = function(**tensors, **settings)
            first = outputs if isinstance(outputs, Tensor) else outputs[0]
            first.sum().backward()
        counts.append(counter.get_total_flops())
        shapes.append((first.shape, [t.grad.shape for t in tensors.values() if t is not None]))  # type: ignore[union-attr]
    assert counts[0] == counts[1] and shapes[0] == shapes[1]
