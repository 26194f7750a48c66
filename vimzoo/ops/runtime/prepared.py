"""What is computed from a weight once and kept while the weight stays as it is, such as its form for oneDNN.

Version counters do not tell when that is: assignments through ``weight.data``, by which adapters are merged and
weights averaged, do not count. The values themselves are compared, by a fingerprint of all of them that C computes as
fast as memory is read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import native

MOST_SETTINGS = 4
"""Forms of one weight that are kept, for images of different sizes for example."""
_Kept = tuple["weakref.ref[Tensor]", tuple[Any, ...], dict[tuple[Any, ...], Any]]


class Prepared:
    """Remembers ``make(weight, *settings)`` for every weight, as long as it lives and its values do not change.

    Nothing is stored in the weight or its module, so that copies and pickles know nothing of it. Several threads may
    call it: at worst two of them prepare the same thing.

    Args:
        make: Computes what is kept from a weight and hashable settings.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._kept: dict[int, _Kept] = {}

    def __call__(self, weight: Tensor, *settings: Any) -> Any:
        """``make(weight, *settings)``, computed now or earlier.

        Args:
            weight: A dense tensor on the CPU.
            settings: Whatever else the result depends on.
        """
        state = (weight.dtype, weight.shape, weight.stride(), _fingerprint(weight))
        kept = self._kept.get(id(weight))
        if kept is None or kept[0]() is not weight or kept[1] != state:
            kept = self._kept[id(weight)] = (weakref.ref(weight, self._drop(id(weight))), state, {})
        values = kept[2]
        found = values.get(settings)
        if found is None:
            if len(values) >= MOST_SETTINGS:
                values.clear()
            found = values[settings] = self._make(weight, *settings)
        return found

    def forget(self, weight: Tensor) -> None:
        """Drop what is kept for a weight, which is about to be trained."""
        if self._kept:
            self._kept.pop(id(weight), None)

    def _drop(self, key: int) -> Callable[[Any], None]:
        def drop(reference: Any) -> None:
            kept = self._kept.get(key)
            if kept is not None and kept[0] is reference:
                del self._kept[key]

        return drop


def can_be_prepared(weight: Tensor) -> bool:
    """Whether a weight's values lie in one piece of memory that the native library can read."""
    dense = weight.is_contiguous() or (
        weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    )
    return dense and weight.is_cpu and native.load()[0] is not None


def _fingerprint(weight: Tensor) -> int:
    library = native.require()
    return library.fingerprint(weight.data_ptr(), weight.numel() * weight.element_size())
