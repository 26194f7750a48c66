"""What all commands share: how they end."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import torch

INTERRUPTED = 128 + 2  # as a shell reports a process that SIGINT ended
NO_READER = 128 + 13  # and one that SIGPIPE ended


def listen() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, which ends the process at once while a command is imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Exit with the status of ``main``; quietly where Ctrl-C or a reader that is gone (``| head``) ends it."""
    listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files that are no text
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
        status = NO_READER
    sys.exit(status)


def slow_half(dtype: torch.dtype | None, device: torch.device, setting: str) -> None:
    """Say that float16 is slow where it is: CPUs have no instructions for it, as most have for bfloat16."""
    if dtype is torch.float16 and device.type == "cpu":
        print(f"warning: {setting}=fp16 is several times slower on a CPU than bf16 or none", file=sys.stderr)
