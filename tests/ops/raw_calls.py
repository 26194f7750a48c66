"""Calls of ``torch.ops.vimzoo.*`` by position: valid ones of every kind, and ways to spoil one argument."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from ops_helpers import LAYOUTS, laid_out
from torch import Tensor

from vimzoo.ops import CROSS, ScanPath, path_arguments

Call = dict[str, Any]
"""Arguments by name, in the order of the schema."""


def _tensor(rng: random.Random, *shape: int, negative: bool = False, repeats: bool = True) -> Tensor:
    """Random values at random addresses: dense, transposed, with gaps, inside another tensor, or repeated."""
    tensor = -torch.rand(shape) if negative else torch.randn(shape)
    layout = rng.choice((*LAYOUTS, "repeated") if repeats else LAYOUTS)
    if layout == "repeated":
        axis = rng.randrange(len(shape))
        return tensor.narrow(axis, 0, min(1, shape[axis])).expand(shape) if shape[axis] else tensor
    return laid_out(tensor, layout) if tensor.numel() else tensor


def _maybe(rng: random.Random, make: Callable[[], Tensor]) -> Tensor | None:
    return make() if rng.random() < 0.6 else None


def _size(rng: random.Random, most: int, empty: bool) -> int:
    return 0 if empty and rng.random() < 0.15 else rng.randint(1, most)


def scan_paths(rng: random.Random, empty: bool = False) -> Call:
    """A call of ``scan_paths`` without its backend."""
    B, H, W, D = (_size(rng, most, empty) for most in (3, 9, 9, 20))
    N, R, merge = rng.randint(1, 9), rng.randint(1, 4), rng.random() < 0.7
    kind = rng.choice(("closed", "numbers", "function"))
    paths: tuple[ScanPath, ...] = tuple(rng.choices(CROSS, k=rng.randint(1, 5)))
    if kind == "function":
        paths = (ScanPath.hilbert(), ScanPath.snake().reversed(), ScanPath.snake("column"))
    codes, table = path_arguments(paths, H, W)
    K, L = len(codes), H * W
    if kind == "numbers":
        table = torch.randint(-1, L, (K, rng.randint(0, 70)), dtype=rng.choice((torch.int32, torch.int64)))
    rows, own = rng.choice((1, K)), rng.random() < 0.3
    states = rng.random() < 0.25  # rows without C
    if states:
        N = 1
    one_or_all = [rng.choice((1, K)) for _ in range(4)]
    return {
        "x": _tensor(rng, B, L, K, D) if own else _tensor(rng, B, L, D),
        "x_dbl": _tensor(rng, B, L, rows, R + (1 if states else 2 * N)),
        "A": _tensor(rng, one_or_all[0], D, N, negative=True),
        "dt_weight": _tensor(rng, one_or_all[1], D, R),
        "dt_bias": _tensor(rng, one_or_all[2], D),
        "D": None if states else _maybe(rng, lambda: _tensor(rng, one_or_all[3], D)),
        "z": _maybe(rng, lambda: _tensor(rng, B, L, D)) if merge and not states else None,
        "codes": codes, "table": table, "height": H, "width": W, "merge": merge, "save_states": True,
    }  # fmt: skip


def scan_carried(rng: random.Random, empty: bool = False) -> Call:
    """A call of ``scan_carried`` without its backend."""
    call = scan_paths(rng, empty)
    sizes = call["x"].shape[0], len(call["codes"]), *call["A"].shape[1:]
    initial = _maybe(rng, lambda: _tensor(rng, *sizes))
    names = list(call)
    after = names.index("codes")
    return {
        **{name: call[name] for name in names[:after]},
        "initial_state": initial,
        **{name: call[name] for name in names[after:]},
    }


def selective_scan(rng: random.Random, empty: bool = False) -> Call:
    """A call of ``selective_scan`` without its backend."""
    B, L, N = _size(rng, 3, empty), _size(rng, 70, empty), rng.randint(1, 9)
    G = rng.randint(1, 3)
    D = G * rng.randint(1, 7)

    def narrow() -> Tensor:
        kind = rng.random()
        if kind < 0.15:
            return _tensor(rng, D, N)
        return _tensor(rng, B, N, L) if kind < 0.3 else _tensor(rng, B, rng.choice((1, G)), N, L)

    return {
        "u": _tensor(rng, B, D, L),
        "delta": _tensor(rng, B, D, L),
        "A": _tensor(rng, D, N, negative=True),
        "B": narrow(),
        "C": narrow(),
        "D": _maybe(rng, lambda: _tensor(rng, D)),
        "z": _maybe(rng, lambda: _tensor(rng, B, D, L)),
        "delta_bias": _maybe(rng, lambda: _tensor(rng, D)),
        "delta_softplus": True,
        "save_states": True,
    }


def causal_conv1d(rng: random.Random, empty: bool = False) -> Call:
    """A call of ``causal_conv1d`` without its backend."""
    B, L = _size(rng, 3, empty), _size(rng, 40, empty)
    K, D = rng.randint(1, 3), rng.randint(1, 20)
    return {
        "x": _tensor(rng, B, L, D),
        "weight": _tensor(rng, K, D, rng.randint(1, 6)),
        "bias": _maybe(rng, lambda: _tensor(rng, K, D)),
        "reverse": [rng.random() < 0.5 for _ in range(K)],
        "activation": rng.choice((None, "silu")),
    }


def add_norm(rng: random.Random, empty: bool = False) -> Call:
    """A call of ``add_norm`` without its backend."""
    shape = [_size(rng, 9, empty) for _ in range(rng.randint(1, 3))] + [rng.randint(4, 40)]
    return {
        "x": _tensor(rng, *shape, repeats=False),  # a variance of 0 would leave gradients to rounding
        "residual": _maybe(rng, lambda: _tensor(rng, *shape)),
        "weight": _tensor(rng, shape[-1]),
        "bias": _maybe(rng, lambda: _tensor(rng, shape[-1])),
        "eps": 1e-5, "rms": rng.random() < 0.5, "residual_in_fp32": rng.random() < 0.5,
    }  # fmt: skip


def linear(rng: random.Random, empty: bool = False) -> Call:
    """A call of ``linear``."""
    B, L, K, inputs, outputs = (_size(rng, most, empty) for most in (3, 9, 3, 20, 20))
    K, inputs, outputs = max(K, 1), max(inputs, 1), max(outputs, 1)
    if rng.random() < 0.4:
        return {"x": _tensor(rng, B, L, K, inputs), "weight": _tensor(rng, K, outputs, inputs), "bias": None}
    return {
        "x": _tensor(rng, B, L, inputs),
        "weight": _tensor(rng, outputs, inputs),
        "bias": _maybe(rng, lambda: _tensor(rng, outputs)),
    }


MAKERS: dict[str, Callable[..., Call]] = {
    "scan_paths": scan_paths,
    "scan_carried": scan_carried,
    "selective_scan": selective_scan,
    "causal_conv1d": causal_conv1d,
    "add_norm": add_norm,
    "linear": linear,
}
BACKWARD = {
    "scan_paths": (("grad",), "states"),
    "scan_carried": (("grad", "grad_last"), "states"),
    "selective_scan": (("grad", "grad_last"), "states"),
    "causal_conv1d": (("grad",), None),
    "add_norm": (("grad", "grad_stream"), "stream"),
}
"""Operator -> the gradients that its backward operator takes, and which output of the forward pass."""


def run(op: str, call: Call, backend: str | None = None) -> tuple[Tensor, ...]:
    """Outputs of ``torch.ops.vimzoo.<op>``."""
    extra = () if op == "linear" else (backend,)
    outputs = getattr(torch.ops.vimzoo, op)(*call.values(), *extra)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def backward_of(op: str, call: Call, rng: random.Random, backend: str | None = None) -> Call:
    """A call of ``op``'s backward operator, with random gradients of what ``call`` returns."""
    gradients, saved = BACKWARD[op]
    outputs = run(op, call, backend)
    given: Call = {name: _tensor(rng, *out.shape) for name, out in zip(gradients, outputs, strict=False)}
    given = {name: g.to(out.dtype) for (name, g), out in zip(given.items(), outputs, strict=False)}
    if len(gradients) == 2 and rng.random() < 0.4:
        given[gradients[1]] = None
    if saved is not None:
        given[saved] = outputs[-1]
    return given | {name: value for name, value in call.items() if name != "save_states"}


def _free(op: str, name: str, call: Call) -> list[int]:
    """Axes of an argument that nothing else fixes: taps of a filter, groups, tokens and outputs of a layer."""
    if op.startswith("causal_conv1d") and name == "weight":
        return [2]
    if op == "causal_conv1d" and name == "x":
        return [0, 1]
    if op.startswith("selective_scan") and name in ("B", "C") and call[name].dim() == 4:
        return [1]
    if op == "linear" and name == "weight" and call["bias"] is None:
        return [call[name].dim() - 2]
    if op == "linear" and name == "x" and call["weight"].dim() == 3:
        return [0, 1]
    any_rank = name == "x" and (op == "linear" or (op == "add_norm" and call["residual"] is None))
    return list(range(-1, call[name].dim() - 1)) if any_rank else []


def spoilt(op: str, call: Call) -> Iterator[tuple[str, Call]]:
    """Every way to make one argument of a valid call wrong, with its name."""
    for name, value in call.items():
        if isinstance(value, Tensor):
            for wrong in _wrong_tensors(op, value, _free(op, name, call), len(call.get("codes", [1]))):
                if not (op.startswith(("scan_paths", "scan_carried")) and _other_width(call, name, wrong)):
                    yield name, call | {name: wrong}
    settings: dict[str, list[Any]] = {
        "codes": [[], [7], [-1], [0] * (len(call.get("codes", [])) + 2)],
        "height": [call.get("height", 0) + 1, -1 - call.get("height", 0), 2**40],
        "width": [call.get("width", 0) + 1, -1 - call.get("width", 0), 2**40],
        "reverse": [[], [True] * 7],
        "activation": ["gelu"],
        "eps": [0.0, -1.0, float("nan")],
    }
    for name in settings.keys() & call.keys():
        for wrong in settings[name]:
            yield name, call | {name: wrong}
    if call.get("codes") and call["table"] is None:
        yield "codes", call | {"codes": [4] * len(call["codes"])}
    if "table" in call:
        tokens, steps = call["x"].shape[1], 5
        for entry in (tokens, -2, 2**31 - 1, -(2**31), 2**32):
            table = torch.full((len(call["codes"]), steps), min(0, tokens - 1))
            table[-1, -1] = entry
            yield "table", call | {"table": table}
        for wrong in (torch.zeros(len(call["codes"]), steps), torch.zeros(steps, dtype=torch.int32)):
            yield "table", call | {"table": wrong}
    if op.startswith("selective_scan") and call["B"].dim() > 2:
        batch, states, steps = call["B"].shape[0], *call["B"].shape[-2:]
        yield "B", call | {"B": torch.zeros(batch, call["u"].shape[1] + 1, states, steps)}
    if call.get("z") is not None and "merge" in call:
        yield "merge", call | {"merge": False}


def _other_width(call: Call, name: str, wrong: Tensor) -> bool:
    """Whether ``wrong`` makes rows with C, of one state, look like rows without, or the reverse."""
    if wrong.dim() != call[name].dim() or wrong.shape[-1:] == call[name].shape[-1:]:
        return False
    sizes = {
        other: (wrong if other == name else call[other]).shape[-1] for other in ("x_dbl", "A", "dt_weight")
    }
    return sizes["A"] == 1 and sizes["x_dbl"] - sizes["dt_weight"] in (1, 2)


def _wrong_tensors(op: str, tensor: Tensor, free: list[int], directions: int) -> Iterator[Tensor]:
    """Other sizes, ranks, dtypes and places; -1 among the ``free`` axes stands for more of them."""
    if tensor.dtype not in (torch.int32, torch.int64):  # a table's own steps are free
        for axis, size in enumerate(tensor.shape):
            if axis not in free:
                for other in {size + 101, size * 2, size - 1} - {size, 1, -1, directions}:
                    shape = [*tensor.shape]
                    shape[axis] = other
                    yield torch.zeros(shape, dtype=tensor.dtype)
                    yield tensor.new_zeros(()).expand(shape)
    if -1 not in free:
        yield tensor.unsqueeze(0).unsqueeze(0)
    yield tensor.new_zeros(())
    if op != "linear":  # dtypes of a product are torch's affair
        yield tensor.to(torch.bool)
    yield tensor.to(torch.complex64)
    yield tensor.to("meta")
    yield tensor.to_sparse()
