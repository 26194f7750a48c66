"""Two matrix products with an activation between them, for all tokens or for experts.

Shazeer 2020 (gated activations), Fedus et al. 2022 (experts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .dense import linear
from .quantized import QuantizedWeight, quantized_linear
from .runtime.library import check_tensors

__all__ = ["ACTIVATIONS", "GATED_ACTIVATIONS", "feed_forward"]

Weight = Tensor | QuantizedWeight
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
GATED_ACTIVATIONS = {
    "reglu": "relu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "swiglu": "silu",
}
"""Of the first product's two halves, values and gates: values times the activated gates are passed on."""


def feed_forward(
    x: Tensor,
    weight1: Weight,
    weight2: Weight,
    bias1: Tensor | None = None,
    bias2: Tensor | None = None,
    *,
    act: str = "gelu",
    expert_counts: Tensor | Sequence[int] | None = None,
    expert_ends: Tensor | Sequence[int] | None = None,
    activations: str = "float",
) -> Tensor:
    """``act(x weight1^T + bias1) weight2^T + bias2``.

    With experts, weights and biases have a leading axis of E experts, x is ``(T, I)`` with the tokens of the first
    expert first, and one of ``expert_counts`` and ``expert_ends`` says which tokens belong to which expert. Tokens
    after the last of ``expert_ends`` are padding, and their results are zero, so that a buffer of a fixed size may be
    partly filled. Counts must add up to T: a smaller sum would be a mistake that nothing else shows.

    Args:
        x: ``(..., I)``, floats.
        weight1: ``(H, I)``, with a gated activation ``(2 H, I)``; a tensor, or a weight of 8 or 4 bits.
        weight2: ``(O, H)``, likewise.
        bias1, bias2: ``(H,)`` or ``(2 H,)``, and ``(O,)``.
        act: ``"relu"``, ``"gelu"`` (exact), ``"gelu_tanh"``, ``"silu"``; gated: ``"reglu"``, ``"geglu"``,
            ``"geglu_tanh"``, ``"swiglu"``, of which the first half of the hidden channels are values, the second gates.
        expert_counts: ``(E,)``, tokens of each expert.
        expert_ends: ``(E,)``, the number of tokens of each expert and of those before it.
        activations: ``"int8"`` rounds the tokens of both products to 8 bits, each token with a scale of its own, and
            multiplies whole numbers; needs weights of 8 bits. There is no gradient then.

    Returns:
        ``(..., O)`` in x's dtype. Gradients flow to x, to float weights, to biases, and to scales and offsets of
        quantized weights.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or options do not fit.
    """
    check_tensors(("bias1", "bias2"), x=x, bias1=bias1, bias2=bias2)
    if act not in ACTIVATIONS and act not in GATED_ACTIVATIONS:
        raise ValueError(f"act: expected one of {(*ACTIVATIONS, *GATED_ACTIVATIONS)}, got {act!r}")
    if expert_counts is not None and expert_ends is not None:
        raise ValueError("expert_counts, expert_ends: expected at most one of them")
    if not x.is_floating_point() or x.dim() == 0:
        raise ValueError(f"x: expected (..., I) floats, got shape {tuple(x.shape)} of {x.dtype}")
    several = expert_counts is not None or expert_ends is not None
    _check_shapes(x.shape[-1], act in GATED_ACTIVATIONS, several, weight1, weight2, bias1, bias2)
    _check_kinds(x, activations, weight1=weight1, weight2=weight2)
    if not several:
        return _one(x, weight1, weight2, bias1, bias2, act, activations)
    if x.dim() != 2:
        raise ValueError(f"x: expected (T, I) with experts, got shape {tuple(x.shape)}")
    ends = _ends(expert_counts, expert_ends, _shape(weight1)[0], len(x))
    parts = []
    for i, (begin, end) in enumerate(pairwise((0, *ends))):
        first, second, *biases = (_expert(parameter, i) for parameter in (weight1, weight2, bias1, bias2))
        parts.append(_one(x[begin:end], first, second, biases[0], biases[1], act, activations))
    return torch.cat([*parts, x.new_zeros(len(x) - ends[-1], _shape(weight2)[1])])


def _one(
    x: Tensor,
    weight1: Weight,
    weight2: Weight,
    bias1: Tensor | None,
    bias2: Tensor | None,
    act: str,
    activations: str,
) -> Tensor:
    hidden = _product(x, weight1, bias1, activations)
    if act in GATED_ACTIVATIONS:
        values, gates = hidden.chunk(2, dim=-1)
        hidden = values * ACTIVATIONS[GATED_ACTIVATIONS[act]](gates)
    else:
        hidden = ACTIVATIONS[act](hidden)
    return _product(hidden, weight2, bias2, activations)


def _product(x: Tensor, weight: Weight, bias: Tensor | None, activations: str) -> Tensor:
    if isinstance(weight, QuantizedWeight):
        return quantized_linear(x, weight, bias, activations=activations)
    return linear(x, weight, bias)


def _expert(tensor, index: int):  # type: ignore[no-untyped-def]
    if tensor is None:
        return None
    return tensor.expert(index) if isinstance(tensor, QuantizedWeight) else tensor[index]


def _shape(weight: Weight) -> tuple[int, ...]:
    if isinstance(weight, QuantizedWeight):
        return (*weight.values.shape[:-1], weight.columns)
    return tuple(weight.shape)


def _check_shapes(
    width: int,
    gated: bool,
    several: bool,
    weight1: Weight,
    weight2: Weight,
    bias1: Tensor | None,
    bias2: Tensor | None,
) -> None:
    experts: tuple[int, ...] = ()
    first = _shape(weight1)
    if len(first) != 2 + several:
        expected = "(E, H, I)" if several else "(H, I)"
        raise ValueError(f"weight1: expected {expected}, got shape {first}")
    if several:
        experts = first[:1]
    hidden = first[-2]
    if gated and hidden % 2:
        raise ValueError(f"weight1: expected an even number of rows for a gated act, got {hidden}")
    second = _shape(weight2)
    wanted = {
        "weight1": (first, (*experts, hidden, width)),
        "weight2": (
            second,
            (*experts, second[-2] if len(second) > 1 else 0, hidden // 2 if gated else hidden),
        ),
        "bias1": (None if bias1 is None else tuple(bias1.shape), (*experts, hidden)),
    }
    wanted["bias2"] = None if bias2 is None else tuple(bias2.shape), wanted["weight2"][1][:-1]
    for name, (given, shape) in wanted.items():
        if given is not None and given != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {given}")


def _check_kinds(x: Tensor, activations: str, **weights: Weight) -> None:
    if activations not in ("float", "int8"):
        raise ValueError(f"activations: expected 'float' or 'int8', got {activations!r}")
    for name, weight in weights.items():
        if isinstance(weight, QuantizedWeight):
            continue
        check_tensors(**{name: weight})
        if activations == "int8":
            raise ValueError(
                f"{name}: expected a quantized weight with activations='int8', got {weight.dtype}"
            )
        if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{name}: expected the dtype of x, {x.dtype}, got {weight.dtype}")


def _ends(
    counts: Tensor | Sequence[int] | None, ends: Tensor | Sequence[int] | None, experts: int, tokens: int
) -> list[int]:
    """The end of every expert's tokens."""
    name, given = ("expert_counts", counts) if counts is not None else ("expert_ends", ends)
    assert given is not None
    numbers = torch.as_tensor(given)
    if numbers.shape != (experts,) or numbers.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"{name}: expected ({experts},) whole numbers, got shape {tuple(numbers.shape)} of {numbers.dtype}"
        )
    found = numbers.tolist()
    if counts is not None:
        if min(found) < 0 or sum(found) != tokens:
            raise ValueError(f"{name}: expected counts of at least 0 that add up to {tokens}, got {found}")
        return numbers.cumsum(0).tolist()
    if any(a > b for a, b in pairwise((0, *found, tokens))):
        raise ValueError(f"{name}: expected rising numbers from 0 to {tokens}, got {found}")
    return found
