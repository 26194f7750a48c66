"""Kernel sources live in the repository's top-level ``kernels`` folder; wheels carry them in this package.

After ``pip install .`` in a checkout, ``python train.py`` imports the checkout, where no libraries were built. Those of
the installed package serve it if they were built from the same sources.
"""

import sys
from pathlib import Path

_here = Path(__file__).resolve().parent
_checkout = _here.parents[1] / "kernels"


def _sources(folder: Path) -> dict[str, bytes]:
    """The C files by operator and name."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in folder.glob("*/*.[ch]")}


def _installed() -> Path | None:
    """The folder of libraries of another copy of this package on ``sys.path``."""
    for entry in sys.path:
        folder = Path(entry, "vimzoo", "kernels").resolve()
        if folder != _here and any(folder.glob("_cpu_base*")):
            return folder
    return None


other = None
"""Libraries of an installed copy, unused because their sources differ from the checkout's."""
# a marker, so that site-packages/kernels (Hugging Face) never matches
if (_checkout / "selective_scan").is_dir():
    __path__.append(str(_checkout))
    if not any(_here.glob("_cpu_base*")) and (_found := _installed()):
        if _sources(_found) == _sources(_checkout):
            __path__.append(str(_found))
        else:
            other = _found
