"""Kernel sources live in the repository's top-level ``kernels`` folder; wheels carry them in this package."""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2] / "kernels"
# a marker, so that site-packages/kernels (Hugging Face) never matches
if (_checkout / "selective_scan").is_dir():
    __path__.append(str(_checkout))
