"""Keeps glibc from returning the memory of activations to the system between operators."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_BLOCK = (32 << 20) - (64 << 10)  # glibc adapts to blocks of up to 32 MiB


def keep_freed_memory() -> None:
    """Allocate and free one block of 32 MiB, which is never written to.

    glibc gives the free end of its heap back to the system and asks for it again at the next operator, and each page
    then costs a fault: without this a third of a float32 MambaIR's time. Its own rule adapts to the blocks that a
    program frees. After one of 32 MiB, blocks of up to this size come from the heap, and up to 64 MiB of free memory
    stay at its end. No setting is changed: where ``MALLOC_TRIM_THRESHOLD_`` or ``mallopt`` have fixed the thresholds,
    or another allocator is in use, this has no effect.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.free(libc.malloc(_BLOCK))
