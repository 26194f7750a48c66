"""The processes of a run and their collectives; DDP and FSDP2 applied from outside the model."""

from __future__ import annotations

import contextlib
import inspect
import io
import operator
import os
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vimzoo.errors import first_line

from ..reports.output import nothing_on_stdout
from .watch import Place, Watch, roll_call, watched

KINDS = ("ddp", "fsdp")
MINUTES = 30.0  # that a process waits for the others, unless `run.timeout` says how long


@dataclass(frozen=True)
class World:
    """This process among those of the run. A single process needs no process group.

    Attributes:
        rank: global rank; rank 0 writes files and logs.
        size: number of processes.
        local_rank: rank on this machine, which selects the GPU.
        place: the progress of this process, for processes that wait for it.
        store: torch's key-value store, shared by all processes.
        group: process group for collectives; None is the default group, used by training.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    place: Place = field(default_factory=Place, compare=False, repr=False)
    store: dist.Store | None = field(default=None, compare=False, repr=False)
    group: Any = field(default=None, compare=False, repr=False)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def beside(self) -> World:
        """The same processes with a group of their own, for use in another thread; a collective call."""
        with nothing_on_stdout():
            group = dist.new_group(backend="gloo") if self.size > 1 else None
        return replace(self, place=Place(), group=group)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a number over the processes; NaN in all of them if one has NaN."""
        if self.size > 1:
            self.place.move()
            dist.all_reduce(value, group=self.group)
            value /= self.size
        return value

    def largest(self, *values: int) -> list[int]:
        """The maximum of each number over the processes."""
        if self.size == 1:
            return list(values)
        self.place.move()
        votes = torch.tensor(values)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group)
        return votes.tolist()

    def unite(self, marks: Tensor) -> None:
        """Logical or over the processes, in place.

        Args:
            marks: bool, any shape, on the CPU.
        """
        if self.size > 1:
            self.place.move()
            dist.all_reduce(marks.view(torch.uint8), dist.ReduceOp.MAX, group=self.group)

    def wait(self) -> None:
        """Barrier."""
        if self.size > 1:
            self.place.move()
            dist.barrier(group=self.group)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank; tensors are on the CPU."""
        if self.size == 1:
            return [value]
        self.place.move()
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, _on_cpu(value), group=self.group)
        return parts

    def first(self, decide: Callable[[], Any]) -> Any:
        """Call ``decide`` in process 0 alone (others may see other files); all processes return or raise its result.

        Raises:
            ValueError, OSError: as ``decide`` does.
        """
        answer: Any = None
        if self.main:
            try:
                answer = decide()
            except (ValueError, OSError) as error:
                answer = error
        if self.size > 1:
            self.place.move()
            sent = [_on_cpu(answer)]
            dist.broadcast_object_list(sent, src=0, device=torch.device("cpu"), group=self.group)
            answer = sent[0]
        if isinstance(answer, ValueError | OSError):
            raise answer
        return answer

    def send(self, value: Any) -> Any:
        """Broadcast nested containers of tensors from process 0, tensor by tensor.

        Returns:
            The value in every process, with tensors on the CPU.
        """
        if self.size == 1:
            return value
        self.place.move()
        tensors: list[Tensor] = []
        parts: list[Any] = [None, None]
        if self.main:
            parts = [_without_tensors(value, tensors), [(part.shape, part.dtype) for part in tensors]]
        dist.broadcast_object_list(parts, src=0, device=torch.device("cpu"), group=self.group)
        if not self.main:
            tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in parts[1]]
        for tensor in tensors:
            dist.broadcast(tensor.view(-1).view(torch.uint8), src=0, group=self.group)
        return value if self.main else _with_tensors(parts[0], tensors)

    def add_up(self, scores: Any) -> None:
        """Replace every attribute that ``scores.sums()`` names by its sum over the processes."""
        if self.size > 1:
            parts = self.gather(scores.sums())
            for name in parts[0]:
                setattr(scores, name, reduce(operator.add, (part[name] for part in parts)))


@contextlib.contextmanager
def joined(rank: int, size: int, local_rank: int, meet: str, minutes: float = MINUTES) -> Iterator[World]:
    """Join the other processes at ``meet``: ``env://``, ``tcp://HOST:PORT`` or ``file://PATH``.

    Args:
        minutes: how long a process waits for the others before it gives up.
    """
    backend, timeout = "gloo", timedelta(minutes=minutes)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store = _store(meet, rank, size, timeout)
    store.set_timeout(timeout)
    store, notes = _of_this_start(store), notes_of(store)
    world = World(rank, size, local_rank, store=notes)
    roll_call(notes, rank, size, timeout.total_seconds())
    with nothing_on_stdout():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        with watched(notes, rank, size, world.place) as watch:
            try:
                yield world
            except RuntimeError as error:
                if not _lost(error):
                    raise
                raise ProcessLost(_why(error, watch, minutes)) from error
    finally:
        dist.destroy_process_group()


def _of_this_start(store: dist.Store) -> dist.Store:
    """Workers that torchrun has restarted find the addresses of those before them in its store."""
    return dist.PrefixStore(f"start{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def notes_of(store: dist.Store) -> dist.Store:
    """The part of the processes' store that is `World.store`."""
    return dist.PrefixStore("vimzoo", _of_this_start(store))


def _store(meet: str, rank: int, size: int, timeout: timedelta) -> dist.Store:
    if place := re.fullmatch(r"tcp://(.*):(\d+)", meet):  # as torch does, but process 0 waits in `roll_call`
        return dist.TCPStore(place[1], int(place[2]), size, rank == 0, timeout, wait_for_workers=False)
    return next(dist.rendezvous(meet, rank, size, timeout=timeout))[0]


class ProcessLost(ConnectionError):
    """Another process has ended, or did not arrive in time."""


LOST = re.compile(r"[Tt]imed out|[Tt]imeout|Connection (closed|reset) by peer|Broken pipe")


def _lost(error: RuntimeError) -> bool:
    """Whether a collective failed because of another process."""
    return isinstance(error, dist.DistError) or LOST.search(str(error)) is not None


def _why(error: RuntimeError, watch: Watch, minutes: float) -> str:
    found = LOST.search(str(error))
    where, said = (
        f"process {watch.rank}, {watch.place.words}",
        found[0] if found else first_line(error),
    )
    if "ime" in said:
        with contextlib.suppress(RuntimeError):
            said = watch.behind() or said
        return f"{where}: the other processes did not come within run.timeout={minutes:g} minutes ({said})"
    return f"{where}: another process has ended ({said})"


@contextlib.contextmanager
def together(model: nn.Module, world: World) -> Iterator[None]:
    """Let each process call a sharded model a different number of times within the block.

    Gathering sharded weights is collective. Before each call the processes therefore vote on whether anyone has a batch
    left, and those that are done take part with a black image until all are done. No effect on models without FSDP.
    """
    if world.size == 1 or not isinstance(model, FSDPModule):
        yield
        return

    def vote(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        world.largest(1, *args[0].shape[1:])

    handle = model.register_forward_pre_hook(vote, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    parameter = next(model.parameters())
    while (votes := world.largest(0, 0, 0, 0))[0]:
        # Not new_zeros: before the first pass, parameters are parts, and what they make would be one
        model(torch.zeros(1, *votes[1:], dtype=parameter.dtype, device=parameter.device))


def _without_tensors(value: Any, found: list[Tensor]) -> bytes:
    """Pickle everything except tensors, which are appended to ``found``, contiguous and on the CPU."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, part: Any) -> int | None:
            if not isinstance(part, Tensor):
                return None
            found.append(part.detach().cpu().contiguous())
            return len(found) - 1

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _with_tensors(pickled: bytes, tensors: list[Tensor]) -> Any:
    class Unpickler(pickle.Unpickler):
        def persistent_load(self, index: int) -> Tensor:
            return tensors[index]

    return Unpickler(io.BytesIO(pickled)).load()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(part) for part in value)
    return value


def units(model: nn.Module) -> list[nn.Module]:
    """The modules to shard separately: every repeated block and the model itself, inner ones first."""
    found = []
    for container in reversed(list(model.modules())):
        if isinstance(container, nn.ModuleList | nn.Sequential):
            kinds = [type(child) for child in container]
            for child in container:
                repeated = kinds.count(type(child)) > 1 and next(child.children(), None) is not None
                if repeated and next(child.parameters(), None) is not None:
                    found.append(child)
    return [*found, model]


def shard(model: nn.Module) -> None:
    """Apply FSDP2 in place, to each of `units`."""
    for unit in units(model):  # inner ones first, as fully_shard wants
        fully_shard(unit)


def whole(value: Tensor) -> Tensor:
    """Gather a sharded tensor; return any other unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def wrap(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """Wrap a model in DDP, unless it is sharded or there is one process."""
    if world.size == 1 or isinstance(model, FSDPModule):
        return model
    devices = [device.index] if device.type == "cuda" else None
    # Buffers are not exchanged, see average_statistics; torch 2.14 has renamed the argument
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {"device_ids": devices, name: False}
    return DistributedDataParallel(model, **options)


def average_statistics(model: nn.Module, world: World) -> None:
    """Average the running statistics of batch norms, which each process computes from its own images.

    Done after every update, so that all processes evaluate, average and save the same values.
    """
    if world.size == 1:
        return
    statistics = [
        buffer
        for module in model.modules()
        if module.training
        for name in ("running_mean", "running_var")
        if isinstance(buffer := module._buffers.get(name), Tensor)
    ]
    if statistics:
        together = world.mean(torch.cat([buffer.flatten().float() for buffer in statistics]))
        for buffer, mean in zip(statistics, together.split([b.numel() for b in statistics]), strict=True):
            buffer.copy_(mean.view_as(buffer))


def sync_gradients(forward: Callable, last: bool) -> contextlib.AbstractContextManager[Any]:
    """The context of a micro-batch; gradients are averaged over the processes only in the last one."""
    module = getattr(forward, "_orig_mod", forward)  # what torch.compile wraps
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    elif isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()
