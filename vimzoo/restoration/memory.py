"""How much memory there is, how much a model takes per pixel, and hence how large a tile may be."""

import copy
import math
import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vimzoo.models.restoration_base import RestorationModel

__all__ = ["automatic_tile", "available_bytes", "bytes_per_pixel"]

TILES = (512, 384, 256, 192, 128, 96, 64, 48, 32)
LARGEST_ON_CPU = 256
"""Larger tiles are slower there: their maps outgrow the caches."""
SHARE = 0.25
"""Of the available memory, what one batch of tiles is reckoned to take: the count knows tensors only, not what
libraries need besides, and other programs want memory too."""
PROBE_SIDE = 128


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; on the CPU within the limits of control groups and of the process.

    Processes that torchrun has started on one machine have equal shares of its memory.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    shared = min([psutil.virtual_memory().available, *group_rooms()]) // processes
    return max(min([shared, *_process_room()]), 0)


def group_rooms(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What Linux control groups, from this process's own upwards, leave of their limits (versions 1 and 2)."""
    groups = own.read_text().splitlines() if own.is_file() else []
    for controllers, path in (line.split(":", 2)[1:] for line in groups):
        if controllers == "":
            names = "memory.max", "memory.current", "inactive_file"
            top = root
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            top = root / "memory"
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (room := _room(folder, *names)) is not None:
                yield room


def _room(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Limit less usage, not counting pages of files that the kernel drops when asked; None where there is no limit."""
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        found = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if most == "max" else int(most) - used + (int(found[1]) if found else 0)


def _process_room() -> Iterator[int]:
    """What limits of the address space (``ulimit -v``) and, on Linux, of data (``ulimit -d``) leave."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = psutil.Process().memory_info()
    for kind, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", None))):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and taken is not None:
            yield limit - taken


class _PeakBytes(TorchDispatchMode):
    """Adds up the memory of all tensors alive at once; with tensors of the meta device nothing is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and (storage := result.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return results

    def _freed(self, size: int) -> None:
        self.now -= size


def bytes_per_pixel(model: RestorationModel) -> float:
    """Bytes of tensors that a float32 forward pass holds at its highest, per pixel of its input; none is computed."""
    outline = _on_meta(model)
    image = torch.empty(1, model.in_chans, PROBE_SIDE, PROBE_SIDE, device="meta")
    with torch.no_grad(), _PeakBytes() as count:
        outline(image)
    return count.peak / PROBE_SIDE**2


def _on_meta(module: nn.Module) -> Any:
    """A copy of a module whose tensors are on the meta device.

    `torch.func.functional_call` would do without a copy, but puts the tensors into the module while it runs, where
    other threads meet them.
    """
    outline = copy.copy(module)
    for name in ("_parameters", "_buffers"):
        tensors = getattr(module, name).items()
        outline.__dict__[name] = {key: x if x is None else x.detach().to("meta") for key, x in tensors}
    outline.__dict__["_modules"] = {key: child and _on_meta(child) for key, child in module._modules.items()}
    return outline


def automatic_tile(model: RestorationModel, device: torch.device, batch: int = 1) -> int:
    """The largest side of a few that fits into the memory there is, for square tiles, ``batch`` of them at once."""
    room = available_bytes(device) * SHARE
    side = math.isqrt(int(room / (bytes_per_pixel(model) * batch)))
    largest = LARGEST_ON_CPU if device.type == "cpu" else max(TILES)
    return next((tile for tile in TILES if tile <= min(side, largest)), min(TILES))
