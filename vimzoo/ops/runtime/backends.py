"""Which implementation runs an op: chosen by device and dtype, forced by argument, context manager or environment.

An implementation that cannot take a call raises `Unsupported` before doing any work; the next one in order is then
tried and the reason is logged once. A forced backend never falls back: its reason becomes the error.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .call import Call

_logger = logging.getLogger("vimzoo")
_said: set[tuple[str, str, str]] = set()

ORDER: dict[str, tuple[str, ...]] = {"cpu": ("cpu", "reference"), "cuda": ("triton", "reference")}
"""Backends tried per device type, fastest first; other devices have the reference alone."""
NAMES = ("reference", "cpu", "triton", "cuda", "mamba_ssm")
STAND_INS: dict[str, tuple[str, ...]] = dict.fromkeys(("cuda", "mamba_ssm"), ("triton", "reference"))
"""Who runs the ops that a backend has no kernels for, when that backend is insisted on: it is about the scan."""


class Unsupported(Exception):
    """This backend cannot take this call; the message says why."""


class BackendError(RuntimeError):
    """A backend that was asked for by name is unknown, missing, or cannot take the call."""


def checked_name(name: str, source: str) -> str:
    """``name`` if it names a backend.

    Raises:
        BackendError: naming ``source`` (an argument or variable), what came and what is known.
    """
    if name not in NAMES:
        raise BackendError(f"{source}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("vimzoo_backend", default=None)
_environment = os.environ.get("VIMZOO_BACKEND") or None


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every vimzoo op runs on backend ``name``, or raises.

    Raises:
        BackendError: if ``name`` is unknown; at the call, if it is missing or cannot take the call.
    """
    token = _forced.set(checked_name(name, "name"))
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend(requested: str | None = None) -> str | None:
    """The backend that the caller, `use_backend` or ``VIMZOO_BACKEND`` insists on, in that order; ``None`` if free."""
    if requested is not None:
        return checked_name(requested, "backend")
    forced = _forced.get()
    if forced is None and _environment is not None:
        forced = checked_name(_environment, "VIMZOO_BACKEND")
    return forced


def candidates(op: str, table: Mapping[str, Any], requested: str | None, device: str) -> tuple[str, ...]:
    """The backends that may run ``op`` on a type of device, in the order in which they are asked.

    Raises:
        BackendError: a backend is forced that does not implement ``op``.
    """
    forced = forced_backend(requested)
    order = ORDER.get(device, ("reference",))
    if forced in STAND_INS and forced not in table:
        order = STAND_INS[forced]
    elif forced is not None:
        if forced not in table:
            raise BackendError(f"backend: {forced!r} does not implement {op}")
        return (forced,)
    return tuple(name for name in order if name in table)


def run(
    op: str, table: Mapping[str, Callable[..., Any]], requested: str | None, call: Call, *before: Any
) -> Any:
    """``table[backend](call, *before)`` of the first backend that takes the call.

    Raises:
        BackendError: if a backend is forced and cannot take it.
    """
    device = call.first.device.type
    names = candidates(op, table, requested, device)
    for name in names:
        try:
            return table[name](call, *before)
        except Unsupported as reason:
            if name == forced_backend(requested):
                raise BackendError(f"backend: {name!r} cannot run {op}: {reason}") from None
            _say_once(op, name, str(reason))
    raise BackendError(f"no backend can run {op} on {device}")  # the reference takes everything


def saves_states(
    op: str, table: Mapping[str, Any], savers: Mapping[str, Callable[[Any], Any]], requested: str | None, call: Call
) -> bool:  # fmt: skip
    """Whether the backend that `run` would choose for ``op`` saves states for its backward pass.

    Fake kernels ask this: they have no data, but the same shapes, dtypes and devices.

    Args:
        savers: by name of the backends that save states, a function that raises `Unsupported` if the backend does not
            take the call.
    """
    for name in candidates(op, table, requested, call.first.device.type):
        try:
            if name in savers:
                savers[name](call)
            return name in savers
        except Unsupported:
            continue
    return False


def use_reference(op: str, what: str, requested: str | None) -> None:
    """Check that the reference may run ``op`` because only it has ``what``, and log that once.

    Raises:
        BackendError: if another backend is forced.
    """
    forced = forced_backend(requested)
    if forced not in (None, "reference"):
        raise BackendError(f"backend: {forced!r} cannot run {op}: {what} need the reference")
    if (op, "reference", what) not in _said:
        _said.add((op, "reference", what))
        _logger.info("%s: the reference runs for %s; it is right and much slower", op, what)


def _say_once(op: str, name: str, reason: str) -> None:
    if (op, name, reason) not in _said:
        _said.add((op, name, reason))
        _logger.info(
            "%s: backend %r steps aside (%s); a slower one runs, with the same results", op, name, reason
        )
