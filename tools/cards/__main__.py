"""Write MODEL_CARDS.md and the tables of README.md and docs: from the registry and ``benchmarks/results``.

``--check`` only says whether they are up to date. No figure is typed by hand: sizes are counted, scores and sources
come from the facts beside each registration, and measured figures from result files that say where, when and with what
they were obtained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .documents import ROOT, documents


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the documents, or with ``--check`` return 1 and name those that are stale."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cards", description=(__doc__ or "").partition(":")[0] + "."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a document is stale"
    )
    options = parser.parse_args(arguments)
    if not (root / "benchmarks").is_dir():
        print(
            "error: tools.cards needs a checkout of the repository, with benchmarks/ and README.md",
            file=sys.stderr,
        )
        return 1
    texts = documents(root)
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if not options.check:
            path.write_text(texts[path])
        print(f"{path.relative_to(root)} {'is stale; run: make cards' if options.check else 'written'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
