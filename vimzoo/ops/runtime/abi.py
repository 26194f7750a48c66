"""What Python shares with the kernels: fields of their argument structs, dtypes, constants, addresses of tensors.

Fields and constants are read from ``kernels/selective_scan/arguments.h``, of which C and CUDA make their structs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The activations' dtypes that kernels take, and their numbers there."""
_SOURCE = re.sub(
    r"/\*.*?\*/",
    "",
    (resources.files("vimzoo.kernels.selective_scan") / "arguments.h").read_text(encoding="utf-8"),
    flags=re.DOTALL,
).replace("\\\n", " ")
CONSTANTS = {name: int(value) for name, value in re.findall(r"#define (\w+) +(\d+)", _SOURCE)}
PATH_CODES = {name: code for code, name in enumerate(re.findall(r"PATH_(\w+)", _SOURCE))}
"""Number of each closed form of a path, and of a table."""


class Arguments:
    """Packs named numbers and addresses in the order of a struct in ``arguments.h``; fields that are not named are 0.

    Args:
        struct_name: such as ``"scan_paths"``.
    """

    def __init__(self, struct_name: str) -> None:
        (listed,) = re.findall(rf"#define {struct_name.upper()}_FIELDS\(F\)(.*)", _SOURCE)
        fields = re.findall(r"F\(([^,]+), (\w+)\)", listed)
        self.struct_name = struct_name
        self.names = [name for _, name in fields]
        self._zeros: dict[str, float] = {name: 0 for _, name in fields}
        self._pack = struct.Struct("=" + "".join("d" if kind == "double" else "q" for kind, _ in fields)).pack

    def __call__(self, **values: float) -> bytes:
        values = {**self._zeros, **values}
        if len(values) != len(self._zeros):
            raise TypeError(f"unknown fields: {sorted(set(values) - set(self._zeros))}")
        return self._pack(*values.values())

    def with_fixed(self, names: Sequence[str], fixed: Mapping[str, float]) -> Callable[..., bytes]:
        """A faster form for many calls: a function of the fields ``names``, in this order, that has the others."""
        places = [self.names.index(name) for name in names]
        template = list({**self._zeros, **fixed}.values())
        if len(template) != len(self._zeros):
            raise TypeError(f"unknown fields: {sorted(set(fixed) - set(self._zeros))}")
        pack = self._pack

        def packed(*values: float) -> bytes:
            fields = template.copy()
            for place, value in zip(places, values, strict=True):
                fields[place] = value
            return pack(*fields)

        return packed


def address(tensor: Tensor | None) -> int:
    """Where a tensor's first item lies in this process's memory; 0 for ``None``.

    Raises:
        ValueError: it is on another device, or its memory was freed, so that C would read elsewhere.
    """
    if tensor is None:
        return 0
    # for most tensors this is all: it is called a dozen times for an operator
    if tensor.is_cpu and (pointer := tensor.data_ptr()):
        return pointer
    if not tensor.is_cpu:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)}: expected all on cpu, got one on {tensor.device}"
        )
    return device_address(tensor)


def device_address(tensor: Tensor | None) -> int:
    """Where a tensor's first item lies in the memory of its device; 0 for ``None``.

    Raises:
        ValueError: its memory was freed.
    """
    if tensor is None:
        return 0
    pointer = tensor.data_ptr()
    if not pointer and tensor.numel():
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)}: expected memory, got a storage resized to 0"
        )
    return pointer
