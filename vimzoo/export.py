"""Write a model as a file that runs elsewhere: ``python -m vimzoo.export MODEL --format onnx``.

The file is run and compared with the model before it gets its name. The command prints the largest difference, the size
of the file and how fast it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .commands import run_command
from .errors import UsageError
from .exporting import FORMATS, ExportError, Written, export, parse_size

__all__ = ["FORMATS", "ExportError", "Written", "export", "main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog="python -m vimzoo.export",
        description=(__doc__ or "").splitlines()[0],
        epilog="formats:\n" + "\n".join(f"  {form.name:12s} {form.runs_with}" for form in FORMATS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "model", metavar="MODEL", help="a name that timm.list_models() knows, or a run's folder"
    )
    command.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    command.add_argument("--checkpoint", metavar="FILE", help="weights; default: the published ones")
    command.add_argument("--random", action="store_true", help="initial weights")
    command.add_argument(
        "--size", help="dynamic, PIXELS or HEIGHTxWIDTH; default: any size, if the model takes any"
    )
    command.add_argument("--output", type=Path, metavar="FILE | FOLDER", help="default: the current folder")
    for name, variant in variants().items():
        command.add_argument(f"--{name}", action="store_true", help=variant)
    return command


def variants() -> dict[str, str]:
    """Options that some formats add: name -> help."""
    return {name: variant.help for form in FORMATS.values() for name, variant in form.variants.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        written = export(
            options.model,
            options.format,
            options.output,
            checkpoint=options.checkpoint,
            random=options.random,
            size=None if options.size is None else parse_size(options.size),
            **{name: getattr(options, name) for name in variants()},
        )
    except (UsageError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ExportError) else 2
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    run_command(main)
