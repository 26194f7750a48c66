"""Runs ``python ...`` and ``vimzoo-train ...`` in forks of a process that has imported torch and timm once.

Each command has a process of its own, as from a shell, but without the seconds of those imports.
"""

import contextlib
import multiprocessing
import os
import runpy
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

IMPORTED = ["torch", "timm", "numpy", "PIL.Image", "vimzoo"]
"""What every command imports anyway; only those whose import depends on no setting of a command."""
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(IMPORTED)


def takes(words: list[str], environment: Mapping[str, str]) -> bool:
    """Whether this is a Python command, in this process's own environment."""
    return (words[0] == "vimzoo-train" or (words[0] == "python" and words[1] != "-c")) and not environment


def run_python(command: str, folder: Path, logs: Path, search: Path) -> tuple[int, str, str]:
    """Run ``python ...`` or ``vimzoo-train ...`` in ``folder``, with ``search`` on Python's path.

    Args:
        logs: an empty folder for what it prints.

    Returns:
        exit status, standard output and standard error.
    """
    child = _forks.Process(target=_child, args=(shlex.split(command), folder, logs, search))
    child.start()
    child.join(300)
    if child.exitcode is None:
        child.kill()
        child.join()
    out, err = ((logs / name).read_text() for name in ("out", "err"))
    return child.exitcode or 0, out, err


def _child(command: list[str], folder: Path, logs: Path, search: Path) -> None:
    program, *words = command
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        with (logs / name).open("w") as file:
            os.dup2(file.fileno(), number)
    os.environ["PYTHONPATH"] = str(search)  # for processes that the command starts
    try:
        if program == "vimzoo-train":
            sys.argv = command
            from vimzoo.engine.cli import main

            main()
        elif words[0] == "-m":
            sys.argv = words[1:]
            sys.path[:0] = ["", str(search)]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path[:0] = [str(folder), str(search)]
            runpy.run_path(words[0], run_name="__main__")
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
