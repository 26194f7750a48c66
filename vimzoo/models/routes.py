"""How MambaIRv2 chooses the routes of its tokens: drawn at random, from a seed or not, or the likeliest ones."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vimzoo.layers.checks import check_choice

from .weights.reader import CheckpointError, read_tensors

__all__ = ["ROUTINGS", "SeededRoutes", "adopt_routing", "check_routing", "routable", "with_routes"]

ROUTINGS = ("gumbel", "argmax")
"""Values of ``routing``: routes drawn by their probabilities, as published; the likeliest ones, always the same."""


def check_routing(routing: str, argument: str = "routing") -> str:
    """``routing``, if it is one of `ROUTINGS`.

    Raises:
        ValueError: it is not.
    """
    check_choice(ROUTINGS, **{argument: routing})
    return routing


def routable(model: Any, routing: str, argument: str = "routing") -> Any:
    """``model``, if its routes can be chosen by ``routing``.

    Raises:
        ValueError: the model does not route, or there is no such way.
    """
    check_routing(routing, argument)
    if getattr(model, "routing", None) is None:
        raise ValueError(f"{argument} {routing}: {type(model).__name__} has no routes; expected a MambaIRv2")
    return model


def adopt_routing(model: Any, path: str | os.PathLike[str], use_ema: bool | None = None) -> None:
    """Set a MambaIRv2's routing to the one that a file of its weights records; without a record it is not changed.

    Raises:
        CheckpointError: the file cannot be read, or records an unknown routing.
    """
    if getattr(model, "routing", None) is None:
        return
    recorded = read_tensors(path, use_ema=use_ema).routing
    if recorded is not None:
        try:
            model.routing = check_routing(recorded)
        except ValueError as error:
            raise CheckpointError(f"{os.fspath(path)}: {error}") from error


class SeededRoutes:
    """Gumbel noise for MambaIRv2's routes, from a stream of its own for every sample of a batch.

    Args:
        seeds: What identifies each sample.
        device: Where the noise is drawn; other devices draw other noise.
    """

    def __init__(self, seeds: Sequence[Sequence[int]], device: torch.device) -> None:
        states = (int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) for seed in seeds)
        self.streams = [torch.Generator(device).manual_seed(state) for state in states]

    def __call__(self, logits: Tensor) -> Tensor:
        """Routing logits ``(B, tokens, classes)`` -> noise of their shape, float32."""
        noise = torch.empty(logits.shape, device=logits.device)
        for sample, stream in zip(noise, self.streams, strict=True):
            sample.exponential_(generator=stream)
        return noise.log_().neg_()


def with_routes(
    model: nn.Module, seeds: Sequence[Sequence[int]], device: torch.device, routing: str | None = None
) -> Callable[[Tensor], Tensor]:
    """The model for one call, its random routes drawn from `SeededRoutes` of its own.

    The noise is an argument of the call, never an attribute of the model, which other threads may be using. Models
    without routes, or with a ``route_noise`` set by the caller, are returned unchanged.

    Args:
        model: Any model.
        seeds: What identifies each sample of the batch.
        device: Where the model is.
        routing: One of `ROUTINGS` for this call; by default the model's own.
    """
    if getattr(model, "routing", None) is None or getattr(model, "route_noise", None) is not None:
        return model
    if (routing or model.routing) == "argmax":
        return functools.partial(model, noise=torch.zeros_like)
    return functools.partial(model, noise=SeededRoutes(seeds, device))
