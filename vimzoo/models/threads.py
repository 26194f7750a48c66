"""Runs small forward passes on the calling thread alone."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vimzoo.ops.runtime.derivatives import PlainLayerNorm
from vimzoo.ops.runtime.library import in_forward_mode, is_eager
from vimzoo.ops.runtime.threads import calling_thread

__all__ = ["GRAIN", "SmallOnOneThread", "multiply_adds"]

GRAIN = 64_000_000
"""A forward pass with fewer multiply-adds with weights runs on one thread: it takes a few milliseconds, spread over
dozens of operators, and starting threads for each costs more than it saves; see ``benchmarks/cpu_threads.py``."""
_parts: WeakKeyDictionary[nn.Module, list[tuple[int, int]]] = WeakKeyDictionary()


class SmallOnOneThread(nn.Module):
    """Base of models that run small calls on the calling thread; torch decides for each operator alone.

    Two threads are slower than one then, and far slower where other processes keep the cores busy. Compiled, traced
    and exported models are left alone, and so is the backward pass. In forward mode layer norms are plain operations.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `torch.nn.Module`'s."""
        if torch.compiler.is_compiling() or not args:
            return super().__call__(*args, **kwargs)
        if in_forward_mode():
            with PlainLayerNorm():
                return super().__call__(*args, **kwargs)
        if not _is_small(self, args[0]):
            return super().__call__(*args, **kwargs)
        with calling_thread():
            return super().__call__(*args, **kwargs)


def _is_small(model: SmallOnOneThread, x: Any) -> bool:
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_cpu or not is_eager(x):
        return False
    return multiply_adds(model, x.shape) < GRAIN


def multiply_adds(model: SmallOnOneThread, shape: torch.Size) -> int:
    """Estimated multiply-adds with weights for images ``(B, C, H, W)``: weights of each stage times its tokens."""
    if model not in _parts:
        infos: Any = model.feature_info  # not annotated on the class, where TorchScript would try to read it
        steps = {part["module"]: part["reduction"] for part in infos}
        stages = [(stage, steps[name]) for name, stage in model.named_modules() if name in steps]
        _parts[model] = [(sum(p.numel() for p in stage.parameters()), step) for stage, step in stages]
    pixels = shape[0] * shape[2] * shape[3]
    return sum(weights * pixels // step**2 for weights, step in _parts[model])
