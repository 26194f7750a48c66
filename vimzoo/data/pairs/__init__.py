"""Data sets of degraded and clean images."""
