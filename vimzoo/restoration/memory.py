"""Chooses the tile size from the available memory and the memory that a model needs per pixel."""

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
"""Larger tiles are slower, because their maps do not fit into the caches."""
SHARE = 0.25
"""Share of the available memory for one batch of tiles. The estimate covers tensors only; libraries and other
programs need memory too."""
PROBE_SIDE = 128


def available_bytes(device: torch.device) -> int:
    """Available bytes on a device; on the CPU within the limits of control groups and of the process.

    Processes that torchrun has started on one machine get equal shares of its memory.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    shared = min([psutil.virtual_memory().available, *group_rooms()]) // processes
    return max(min([shared, *_process_room()]), 0)


def group_rooms(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes left by the limits of this process's Linux control groups and their parents (versions 1 and 2)."""
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
    """Limit minus usage, without page cache that the kernel can drop; None without a limit."""
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        found = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if most == "max" else int(most) - used + (int(found[1]) if found else 0)


def _process_room() -> Iterator[int]:
    """Bytes left by the limits of address space (``ulimit -v``) and, on Linux, of data (``ulimit -d``)."""
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
    """Tracks the peak memory of live tensors; with tensors on the meta device nothing is computed."""

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
    """Peak bytes of tensors in a float32 forward pass, per input pixel; counted on the meta device."""
    outline = _on_meta(model)
    image = torch.empty(1, model.in_chans, PROBE_SIDE, PROBE_SIDE, device="meta")
    with torch.no_grad(), _PeakBytes() as count:
        outline(image)
    return count.peak / PROBE_SIDE**2


def _on_meta(module: nn.Module) -> Any:
    """A copy of a module whose tensors are on the meta device.

    `torch.func.functional_call` needs no copy, but puts the tensors into the module while it runs, where other
    threads see them.
    """
    outline = copy.copy(module)
    for name in ("_parameters", "_buffers"):
        tensors = getattr(module, name).items()
        outline.__dict__[name] = {key: x if x is None else x.detach().to("meta") for key, x in tensors}
    outline.__dict__["_modules"] = {key: child and _on_meta(child) for key, child in module._modules.items()}
    return outline


def automatic_tile(model: RestorationModel, device: torch.device, batch: int = 1) -> int:
    """The largest of several sides for which ``batch`` square tiles fit into the available memory."""
    room = available_bytes(device) * SHARE
    side = math.isqrt(int(room / (bytes_per_pixel(model) * batch)))
    largest = LARGEST_ON_CPU if device.type == "cpu" else max(TILES)
    return next((tile for tile in TILES if tile <= min(side, largest)), min(TILES))
