"""Writes MODEL_CARDS.md and the generated tables of README.md and docs: ``python -m tools.cards``."""
