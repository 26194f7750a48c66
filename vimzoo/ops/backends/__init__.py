"""Which implementation runs an op: chosen by device and dtype, forced by argument, context manager or environment.

Every module of this package registers one `Backend`; nothing else names it. To add one, write a module here, or call
`register` from anywhere. A backend that cannot take a call raises `Unsupported` before doing any work; the next one in
order is then tried and the reason is logged once. A forced backend raises its reason as an error instead.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from ..runtime.call import OPERATORS, Call

_logger = logging.getLogger("vimzoo")
_said: set[tuple[str, str, str]] = set()
ANY = "any"
"""In `Backend.devices`: every type of device."""


class Unsupported(Exception):
    """This backend cannot take this call; the message says why."""


class BackendError(RuntimeError):
    """A forced backend is unknown, is missing, or cannot run the call."""


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators.

    Args:
        name: as in ``backend="name"``.
        devices: type of device (or `ANY`) -> rank in the order in which backends are tried, the lowest first; ``None``
            if this one runs there only when it is forced.
        ops: name of an operator, forward or backward -> function of its `Call` and, in a backward operator, of the
            gradients and saved tensors that precede the call's arguments in the schema. It raises `Unsupported`.
        load: returns whether the backend can be used in this process, and its version, or why not.
        description: what it is, for reports; ``{}`` stands for what ``load`` returned.
        saves: operator -> a function that raises `Unsupported` where ``ops`` would, for the forward operators that save
            states for the backward pass. Others save none.
        check_device: raises `Unsupported` if the backend cannot run on a device at all.
        stand_ins: names of the backends, in this order, that run the operators which it lacks while `use_backend` or
            ``VIMZOO_BACKEND`` forces it, on devices that it can run on. Without any, such an operator raises.
    """

    name: str
    devices: Mapping[str, int | None]
    ops: Mapping[str, Callable[..., Any]]
    load: Callable[[], tuple[bool, str]]
    description: str = "{}"
    saves: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    check_device: Callable[[torch.device], None] = lambda device: None
    stand_ins: tuple[str, ...] = ()

    def serves(self, device: str) -> bool:
        """Whether it runs on a type of device at all."""
        return device in self.devices or ANY in self.devices

    def rank(self, device: str) -> int | None:
        """Its place in the order for a type of device; ``None`` if it has none."""
        return self.devices.get(device, self.devices.get(ANY))


_REGISTRY: dict[str, Backend] = {}
_ORDERS: dict[tuple[str, str], tuple[Backend, ...]] = {}
"""By operator and device, from `_REGISTRY`."""


def functions_of(*modules: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions of these modules that are named like an operator, forward or backward: a backend's ``ops``."""
    names = [name for op in OPERATORS for name in (op, f"{op}_backward")]
    return {name: vars(module)[name] for module in modules for name in names if name in vars(module)}


def register(backend: Backend) -> None:
    """Make a backend known.

    Raises:
        ValueError: another one has its name.
    """
    if backend.name in _REGISTRY:
        raise ValueError(f"name: a backend {backend.name!r} is registered already")
    _REGISTRY[backend.name] = backend
    _ORDERS.clear()


def register_all() -> None:
    """Import every module of this package, each of which registers its backend."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def registered() -> list[Backend]:
    """All backends, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


def find(name: str) -> Backend:
    """The backend of this name, which is known."""
    return _REGISTRY[name]


def order(op: str, device: str) -> tuple[Backend, ...]:
    """The backends that are tried for an operator on a type of device, fastest first."""
    key = op, device
    found = _ORDERS.get(key)
    if found is None:
        ranks = {b.name: rank for b in registered() if op in b.ops and (rank := b.rank(device)) is not None}
        found = tuple(_REGISTRY[name] for name in sorted(ranks, key=lambda name: ranks[name]))
        _ORDERS[key] = found
    return found


def checked_name(name: str, source: str) -> str:
    """``name`` if it names a backend.

    Raises:
        BackendError: it does not; the message names ``source``, the argument or variable.
    """
    if name not in _REGISTRY:
        raise BackendError(f"{source}: expected one of {', '.join(sorted(_REGISTRY))}, got {name!r}")
    return name


_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("vimzoo_backend", default=None)
_environment = os.environ.get("VIMZOO_BACKEND") or None


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every vimzoo op runs on backend ``name``, or raises.

    ``"cuda"`` and ``"mamba_ssm"`` do not implement every operator. On a GPU that they can run on, Triton's kernels run
    the others, or the reference where Triton is missing; this is logged once. `linear` is torch's own product with
    every backend, but raises where the backend could not run.

    Raises:
        BackendError: ``name`` is unknown; at the call, if it is missing or cannot take the call.
    """
    token = _forced.set(checked_name(name, "name"))
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend(requested: str | None = None) -> str | None:
    """The backend forced by the caller, `use_backend` or ``VIMZOO_BACKEND``, in that order; ``None`` if none is."""
    if requested is not None:
        return checked_name(requested, "backend")
    forced = _forced.get()
    if forced is None and _environment is not None:
        forced = checked_name(_environment, "VIMZOO_BACKEND")
    return forced


def candidates(op: str, requested: str | None, device: torch.device) -> tuple[Backend, ...]:
    """The backends that may run ``op`` on a device, in the order in which they are tried.

    Raises:
        BackendError: a backend is forced that does not implement ``op``, and none may stand in for it.
    """
    forced = forced_backend(requested)
    if forced is None:
        return order(op, device.type)
    backend = _REGISTRY[forced]
    if op in backend.ops:
        return (backend,)
    if requested is not None or not backend.stand_ins:
        raise BackendError(f"backend: {forced!r} does not implement {op}")
    check_forced(op, device)
    standing_in = [_REGISTRY[name] for name in backend.stand_ins]
    found = tuple(b for b in standing_in if op in b.ops and b.rank(device.type) is not None)
    names = " or ".join(repr(b.name) for b in found)
    _say_once(op, forced, "%s: the forced backend %r does not implement it; %s runs instead", names)
    return found


def check_forced(op: str, device: torch.device) -> None:
    """Check that the backend which `use_backend` or ``VIMZOO_BACKEND`` forces, if any, can run on ``device``.

    Raises:
        BackendError: it cannot.
    """
    forced = forced_backend()
    if forced is None:
        return
    try:
        _REGISTRY[forced].check_device(device)
    except Unsupported as reason:
        raise BackendError(f"backend: {forced!r} cannot run {op}: {reason}") from None


def run(op: str, requested: str | None, call: Call, *before: Any) -> Any:
    """The result of ``op`` from the first backend that takes the call.

    Raises:
        BackendError: a backend is forced and cannot take it.
    """
    device = call.first.device
    for backend in candidates(op, requested, device):
        try:
            return backend.ops[op](call, *before)
        except Unsupported as reason:
            if backend.name == forced_backend(requested):
                raise BackendError(f"backend: {backend.name!r} cannot run {op}: {reason}") from None
            _say_once(op, backend.name, _STEPS_ASIDE, str(reason))
    raise BackendError(f"no backend can run {op} on {device.type}")  # the reference takes everything


def saves_states(op: str, requested: str | None, call: Call) -> bool:
    """Whether the backend that `run` would choose saves states for the backward pass.

    Fake kernels ask this; they have no data, but the same shapes, dtypes and devices.
    """
    for backend in candidates(op, requested, call.first.device):
        try:
            if op in backend.saves:
                backend.saves[op](call)
            return op in backend.saves
        except Unsupported:
            continue
    return False


def use_reference(op: str, what: str, requested: str | None) -> None:
    """Check that the reference may run ``op`` because only it has ``what``, and log that once.

    Raises:
        BackendError: another backend is forced.
    """
    forced = forced_backend(requested)
    if forced not in (None, "reference"):
        raise BackendError(f"backend: {forced!r} cannot run {op}: {what} need the reference")
    _say_once(op, what, "%s: %s run on the %s, with exact results but much slower", "reference")


_STEPS_ASIDE = "%s: backend %r cannot take this call (%s); a slower one runs, with the same results"


def _say_once(op: str, name: str, text: str, detail: str) -> None:
    """Log ``text`` with the three others in its places, unless that was done before."""
    if (op, name, detail) not in _said:
        _said.add((op, name, detail))
        _logger.info(text, op, name, detail)
