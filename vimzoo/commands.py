"""Exit statuses and error messages of all commands; docs/commands.md has the table."""

from __future__ import annotations

import argparse
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from .errors import Failure, UsageError


class Exit:
    """The exit statuses of all commands; 128 + n as a shell reports a process that signal n ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 128 + 2  # SIGINT
    NO_READER = 128 + 13  # SIGPIPE
    TERMINATED = 128 + 15  # SIGTERM


def listen() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, which ends the process at once while a command is imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def report(error: BaseException) -> int:
    """Print an error for the user; returns the status to exit with."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return Exit.USAGE if isinstance(error, UsageError | ImportError) else Exit.FAILED


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument as commands report other errors: in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with the status of a usage error."""
        self.exit(Exit.USAGE, f"error: {message}; {self.prog} --help lists the arguments\n")


class whole_number:
    """Parses an argument that is a whole number from ``low`` to ``high``."""

    def __init__(self, low: int, high: int | None = None) -> None:
        self.low, self.high = low, high

    def __call__(self, text: str) -> int:
        number = int(text) if text.isdecimal() else -1
        if number < self.low or (self.high is not None and number > self.high):
            limits = f"{self.low} to {self.high}" if self.high is not None else f"at least {self.low}"
            raise argparse.ArgumentTypeError(f"expected a whole number, {limits}, got {text!r}")
        return number


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Decorator of a command's ``main``: expected errors become one line and an exit status.

    UsageError gives 2, and so does the ImportError of a package that is not installed. Failure and OSError, such as a
    full disk, give 1. Any other error is a defect of this package and keeps its traceback.
    """

    @functools.wraps(main)
    def reported(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except BrokenPipeError:  # `run_command` ends quietly
            raise
        except (UsageError, ImportError, Failure, OSError) as error:
            return report(error)

    return reported


def run_command(main: Callable[[], int | None], *, tidies: bool = False) -> NoReturn:
    """Exit with the status of ``main``; no traceback after Ctrl-C or if the reader (``| head``) has closed the pipe.

    Args:
        main: The command.
        tidies: Whether it ends after SIGTERM as after Ctrl-C, with another status, because it has something to tidy up.
    """
    listen()
    terminated = False

    def end(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    if tidies and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # for file names that are not valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
        status = Exit.NO_READER
    sys.exit(Exit.TERMINATED if terminated else status)


def trainer() -> str:
    """How a user starts the trainer here: the script where the current folder is the checkout, else the command."""
    script = Path(__file__).resolve().parents[1] / "train.py"
    return "python train.py" if script.is_file() and script == Path("train.py").resolve() else "vimzoo-train"


def slow_half(dtype: torch.dtype | None, device: torch.device, setting: str) -> None:
    """Warn that float16 is slow on CPUs, most of which have instructions for bfloat16 but not for float16."""
    if dtype is torch.float16 and device.type == "cpu":
        print(f"warning: {setting}=fp16 is several times slower on a CPU than bf16 or none", file=sys.stderr)
