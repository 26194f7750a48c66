"""Write a model as a file that runs without its Python code: ``python -m vimzoo.export MODEL --format onnx``.

The file is run and compared with the model before it is moved into place. The command prints the largest difference,
the size of the file and its speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .commands import Parser, command, run_command
from .exporting import FORMATS, ExportError, Written, export, parse_size
from .models.routes import ROUTINGS
from .quantization import KINDS

__all__ = ["FORMATS", "ExportError", "Written", "export", "main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parsed = Parser(
        prog="python -m vimzoo.export",
        description=(__doc__ or "").splitlines()[0],
        epilog="formats:\n" + "\n".join(f"  {form.name:12s} {form.runs_with}" for form in FORMATS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parsed.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "model", metavar="MODEL", nargs="?", help="a name, a folder, hf-hub:OWNER/NAME, or a file"
    )
    which.add_argument(
        "--model", dest="model_option", metavar="MODEL", help="the same as the positional argument"
    )
    parsed.add_argument("--format", choices=FORMATS, default="onnx", help="file format (default: onnx)")
    parsed.add_argument("--checkpoint", metavar="FILE", help="weights; default: the published ones")
    parsed.add_argument("--random", action="store_true", help="use random initial weights")
    parsed.add_argument(
        "--size", help="dynamic, PIXELS or HEIGHTxWIDTH; default: any size, if the model takes any"
    )
    parsed.add_argument(
        "--routing", choices=ROUTINGS, help="of MambaIRv2: argmax, as a file cannot draw at random"
    )
    parsed.add_argument(
        "--quantize", choices=KINDS, help="first round the linear layers as vimzoo.quantize does"
    )
    parsed.add_argument("--output", type=Path, metavar="FILE | FOLDER", help="default: the current folder")
    for name, variant in variants().items():
        parsed.add_argument(f"--{name}", action="store_true", help=variant)
    return parsed


def variants() -> dict[str, str]:
    """Options that some formats add: name -> help."""
    return {name: variant.help for form in FORMATS.values() for name, variant in form.variants.items()}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    options = parser().parse_args(arguments)
    written = export(
        options.model or options.model_option,
        options.format,
        options.output,
        checkpoint=options.checkpoint,
        random=options.random,
        size=None if options.size is None else parse_size(options.size),
        say=lambda line: print(line, file=sys.stderr, flush=True),
        routing=options.routing,
        quantize=options.quantize,
        **{name: getattr(options, name) for name in variants()},
    )
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    run_command(main)
