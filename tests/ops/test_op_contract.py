"""What torch expects of an operator: fake kernels, compilation, autocast, determinism, FLOPs, empty inputs, float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops_helpers import (
    LAYOUTS,
    PLAIN,
    Tensors,
    assert_matches_reference,
    conv_inputs,
    in_float64,
    norm_inputs,
    path_inputs,
    run_with_gradients,
    scan_inputs,
    with_dtype,
    with_layout,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vimzoo.ops import (
    BACKWARD,
    BIDIRECTIONAL,
    CROSS,
    FORWARD,
    add_norm,
    backends,
    causal_conv1d,
    scan_paths,
    selective_scan,
)

ACTIVATIONS = {
    "selective_scan": "u delta B C z",
    "scan_paths": "x x_dbl z",
    "scan_paths_table": "x x_dbl z",
    "causal_conv1d": "x",
    "add_norm": "x",
}


class Recorder(TorchDispatchMode):
    """Notes every call of one of our ops, forward or backward, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vimzoo":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("name", PLAIN)
def test_opcheck(name: str, backend: str, layout: str) -> None:
    """torch's own checks of schema, autograd registration, fake kernel (shapes, dtypes, strides) and tracing."""
    function, make, settings = PLAIN[name]
    tensors = {k: None if t is None else t.requires_grad_() for k, t in with_layout(make(), layout).items()}
    with Recorder() as recorder:
        run_with_gradients(function, tensors, backend=backend, **settings)
    assert len(recorder.calls) == 2, "one op forward, one backward"
    for op, args in recorder.calls:
        forward = not op.__name__.split(".")[0].endswith("backward")
        args = tuple(
            a.detach().requires_grad_(forward) if isinstance(a, Tensor) and a.is_floating_point() else a
            for a in args
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of opcheck's own tracing
            torch.library.opcheck(op, args)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PLAIN)
def test_matches_the_definition(name: str, backend: str, layout: str) -> None:
    """Forward and all gradients of every backend, against the reference in float64."""
    function, make, settings = PLAIN[name]
    assert_matches_reference(function, with_layout(make(), layout), backend=backend, **settings)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("name", PLAIN)
def test_compiles_without_a_graph_break(name: str, layout: str) -> None:
    function, make, settings = PLAIN[name]
    tensors = with_layout(make(), layout)
    torch._dynamo.reset()
    compiled = torch.compile(lambda **kwargs: function(**kwargs), fullgraph=True, backend="aot_eager")
    found = run_with_gradients(compiled, tensors, **settings)
    expected = run_with_gradients(function, tensors, **settings)
    for values, truths in zip(found, expected, strict=True):
        for key, value in values.items():
            assert torch.equal(value, truths[key]), key


def test_compiles_for_any_length() -> None:
    """One graph serves every batch and length."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda **tensors: scan_paths(**tensors, paths=BIDIRECTIONAL),
        fullgraph=True,
        backend="aot_eager",
        dynamic=True,
    )
    for batch, length in ((4, 40), (3, 50), (6, 97)):  # none equal to the number of directions
        tensors = path_inputs(batch, length)
        with torch.compiler.set_stance("default" if length == 40 else "fail_on_recompile"):
            found = compiled(**tensors)
        assert torch.equal(found, scan_paths(**tensors, paths=BIDIRECTIONAL))  # type: ignore[arg-type]


def test_exports_as_one_node() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return causal_conv1d(x, weight, activation="silu", reverse=(False, True))

    inputs = (torch.randn(2, 9, 5), torch.randn(2, 5, 4))
    batch = torch.export.Dim("batch")
    program = torch.export.export(Layer(), inputs, dynamic_shapes=({0: batch}, None))
    ours = [node for node in program.graph.nodes if "vimzoo" in str(node.target)]
    assert len(ours) == 1
    other = torch.randn(4, 9, 5)
    assert torch.equal(program.module()(other, inputs[1]), Layer()(other, inputs[1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PLAIN)
def test_autocast_narrows_activations_and_keeps_parameters(
    name: str, backend: str, dtype: torch.dtype
) -> None:
    """Also where the backward pass runs inside the block: the float32 inside an op stays float32."""
    function, make, settings = PLAIN[name]
    settings = {**settings, "backend": backend}
    tensors = make()
    with torch.autocast("cpu", dtype):
        found, gradients = run_with_gradients(function, tensors, **settings)
    narrow = with_dtype(tensors, dtype, ACTIVATIONS[name])
    expected, expected_gradients = run_with_gradients(function, narrow, **settings)
    assert found["output 0"].dtype == dtype
    for key, value in found.items():
        assert value.dtype == expected[key].dtype and torch.equal(value, expected[key]), key
    for key, value in gradients.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected_gradients[key].float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", PLAIN)
def test_autocast_leaves_float64(name: str) -> None:
    function, make, settings = PLAIN[name]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = run_with_gradients(function, in_float64(make()), **settings)
    assert found["output 0"].dtype == torch.float64


def test_autocast_takes_the_dtypes_that_it_makes() -> None:
    """A linear layer hands over bfloat16, a softplus float32: both are narrowed rather than refused."""
    tensors = scan_inputs()
    mixed = with_dtype(tensors, torch.bfloat16, "u z")
    with torch.autocast("cpu", torch.bfloat16):
        found = selective_scan(**mixed)  # type: ignore[arg-type]
        expected = selective_scan(**tensors)  # type: ignore[arg-type]
    assert torch.equal(found, expected)  # type: ignore[arg-type]


def test_autocast_keeps_complex_matrices() -> None:
    tensors = scan_inputs(groups=None, optional="")
    A, B, C = (torch.complex(tensors[n], tensors[n]) for n in "ABC")  # type: ignore[arg-type]
    u, delta = tensors["u"], tensors["delta"]
    assert u is not None and delta is not None
    with torch.autocast("cpu", torch.bfloat16):
        found = selective_scan(u, delta, A, B, C)
    expected = selective_scan(u.bfloat16(), delta.bfloat16(), A, B, C)
    assert torch.equal(found, expected)  # type: ignore[arg-type]


LARGE: dict[str, tuple[Callable[..., Any], Callable[[], Tensors], dict[str, Any]]] = {
    "selective_scan": (
        selective_scan,
        lambda: scan_inputs(3, 200, 197, 16, groups=2),
        {"delta_softplus": True},
    ),
    "scan_paths": (scan_paths, lambda: path_inputs(3, 196, 200, 4), {"paths": CROSS, "grid": (14, 14)}),
    "scan_paths, one image": (scan_paths, lambda: path_inputs(1, 197, 200), {"paths": BIDIRECTIONAL}),
    "causal_conv1d": (causal_conv1d, lambda: conv_inputs(3, 197, 200), {"reverse": (False, True)}),
    "add_norm": (add_norm, lambda: norm_inputs(3, 197, 200), {}),
}


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("name", LARGE)
def test_bitwise_equal_whatever_the_threads(name: str) -> None:
    """Outputs and gradients repeat to the last bit, at one thread, at two, at three, and between them."""
    function, make, settings = LARGE[name]
    tensors = make()
    results = []
    for threads in (1, 1, 2, 2, 3):
        torch.set_num_threads(threads)
        outputs, gradients = run_with_gradients(function, tensors, backend="cpu", **settings)
        results.append(outputs | gradients)
    for other in results[1:]:
        for key, value in results[0].items():
            assert torch.equal(value, other[key]), key


SMALL: dict[str, tuple[Callable[..., Any], Callable[[], Tensors], dict[str, Any]]] = {
    "selective_scan": (
        selective_scan,
        lambda: scan_inputs(2, 4, 5, 2, groups=2),
        {"delta_softplus": True, "return_last_state": True},
    ),
    "scan_paths": (scan_paths, lambda: path_inputs(2, 6, 3, 4, 2, 2), {"paths": CROSS, "grid": (2, 3)}),
    "causal_conv1d": (causal_conv1d, lambda: conv_inputs(2, 5, 3), {"reverse": (False, True)}),
    "add_norm": (add_norm, lambda: norm_inputs(2, 3, 4), {"rms": False}),
}


@pytest.mark.parametrize("name", SMALL)
def test_float64_gradients_match_finite_differences(name: str) -> None:
    function, make, settings = SMALL[name]
    tensors = {k: t.requires_grad_() for k, t in in_float64(make()).items() if t is not None}
    keys = list(tensors)

    def call(*values: Tensor) -> Any:
        outputs = function(**dict(zip(keys, values, strict=True)), **settings)
        assert (outputs if isinstance(outputs, Tensor) else outputs[0]).dtype == torch.float64
        return outputs

    assert torch.autograd.gradcheck(call, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize(
    ("function", "tensors", "settings", "shape"),
    [
        (selective_scan, lambda: scan_inputs(batch=0, groups=1), {}, (0, 5, 49)),
        (selective_scan, lambda: scan_inputs(length=0), {}, (2, 5, 0)),
        (scan_paths, lambda: path_inputs(batch=0), {"paths": BIDIRECTIONAL}, (0, 49, 5)),
        (
            scan_paths,
            lambda: path_inputs(batch=0, optional=""),
            {"paths": BIDIRECTIONAL, "merge": False},
            (0, 2, 49, 5),
        ),
        (causal_conv1d, lambda: conv_inputs(batch=0), {"reverse": (True, False)}, (0, 49, 2, 5)),
        (add_norm, lambda: norm_inputs(0, 7, 40), {}, (0, 7, 40)),
        (add_norm, lambda: norm_inputs(0, 7, 40), {"rms": False}, (0, 7, 40)),
    ],
)
def test_empty_inputs(
    function: Any, tensors: Any, settings: Any, shape: tuple[int, ...], backend: str
) -> None:
    outputs, gradients = run_with_gradients(function, tensors(), backend=backend, **settings)
    assert outputs["output 0"].shape == shape
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("name", ["scan_paths", "scan_paths_table", "selective_scan"])
def test_states_are_saved_or_empty(name: str, backend: str) -> None:
    """A backend saves the states before every 32 steps, which start at 0, or an empty tensor, never a stand-in."""
    function, make, settings = PLAIN[name]
    tensors = {key: None if t is None else t.requires_grad_() for key, t in make().items()}
    with Recorder() as recorder:
        function(**tensors, **settings, backend=backend)
    (op, args), *_ = recorder.calls
    states = op(*args)[-1]
    saves = op.__name__.split(".")[0] in backends.find(backend).saves
    assert bool(states.numel()) == saves
    if saves:
        batch, chunks = 2, 1 if name == "scan_paths_table" else 2
        first = states.view(batch, -1, chunks, 8 * 5)[:, :, 0]
        assert states.numel() and not first.any()


def test_inference_keeps_no_states() -> None:
    """Without gradients the op must not write the states that only a backward pass reads."""
    tensors = path_inputs()
    with torch.no_grad(), Recorder() as recorder:
        scan_paths(**tensors, paths=BIDIRECTIONAL)  # type: ignore[arg-type]
    (op, args), *_ = recorder.calls
    assert op(*args)[1].numel() == 0


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        # 9 N for the recurrence and 2 for D, per image, channel and step
        (lambda: selective_scan(**scan_inputs(2, 5, 7, 8)), 2 * 5 * 7 * (9 * 8 + 2)),  # type: ignore[arg-type]
        # the same and 2 R for the projection of the step size, per path
        (
            lambda: scan_paths(**path_inputs(2, 7, 5, 2, 8, 3), paths=(FORWARD, BACKWARD)),  # type: ignore[arg-type]
            2 * 7 * 5 * 2 * (9 * 8 + 2 + 2 * 3),
        ),
        (lambda: causal_conv1d(**conv_inputs(2, 7, 5, 2, 4), reverse=(False, True)), 2 * 7 * 5 * 2 * 4 * 2),  # type: ignore[arg-type]
        (lambda: add_norm(**norm_inputs(2, 7)), 0),  # type: ignore[arg-type]
    ],
    ids=["selective_scan", "scan_paths", "causal_conv1d", "add_norm"],
)
def test_flop_count(call: Callable[[], Any], expected: int) -> None:
    with FlopCounterMode(display=False) as counter:
        call()
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PLAIN)
def test_half_precision_is_rounded_once(name: str, dtype: torch.dtype, instruction_set: str) -> None:
    """Everything inside is float32: the output errs as the rounding of what float32 inputs give; two would err by 1.4.

    Exponentials of narrow activations have 12 bits, which adds a little. The norm has none and is exact.
    """
    function, make, settings = PLAIN[name]
    tensors = make()
    if name == "selective_scan":
        tensors["z"] = None  # its gate is rounded on its own, as mamba_ssm defines it
    narrow = with_dtype(tensors, dtype, ACTIVATIONS[name])
    wide = with_dtype(narrow, torch.float32, ACTIVATIONS[name])
    found = function(**narrow, **settings, backend="cpu")
    exact = function(**wide, **settings, backend="cpu")
    found, exact = (r[0] if isinstance(r, tuple) else r for r in (found, exact))
    error, rounding = (
        (value.double() - exact.double()).square().mean().sqrt() for value in (found, exact.to(dtype))
    )
    assert found.dtype == dtype
    assert error <= (1.0 if name == "add_norm" else 1.1) * rounding
