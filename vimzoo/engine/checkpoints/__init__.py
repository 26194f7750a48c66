"""Checkpoints of runs: writing, resuming, publishing."""
