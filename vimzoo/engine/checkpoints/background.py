"""Saving in the background: copies of tensors, and a thread that writes them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Copies:
    """Copies on the CPU. Their memory is reused by the next call; it is pinned if the tensors are on a GPU."""

    _memory: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def of(self, value: Any) -> Any:
        """Copy nested dictionaries, lists and tuples with all their tensors; the copies are complete on return."""
        copied = self._of(value, ())
        if any(tensor.is_pinned() for tensor in self._memory.values()):
            torch.accelerator.synchronize()
        return copied

    def _of(self, value: Any, name: tuple[Any, ...]) -> Any:
        if isinstance(value, Tensor):
            return self._buffer(value, name).copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            copied = copy.copy(value)  # of the same class, with its attributes: a state dict has metadata
            for key, part in value.items():
                copied[key] = self._of(part, (*name, key))
            return copied
        if isinstance(value, list | tuple):
            return type(value)(self._of(part, (*name, index)) for index, part in enumerate(value))
        return value

    def _buffer(self, value: Tensor, name: tuple[Any, ...]) -> Tensor:
        buffer = self._memory.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._memory[name] = buffer
        return buffer


@dataclass
class Beside:
    """Runs one job at a time in a background thread."""

    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "beside training"))
    _job: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the previous job (see `wait`), then start this one."""
        self.wait()
        self._job = self._threads.submit(job)

    def check(self) -> None:
        """Raise the error of a job that has failed."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Block until no job is running.

        Raises:
            Whatever the job raised.
        """
        job = self._job
        if job is not None:
            try:
                job.result()
            finally:
                self._job = None if job.done() else job
