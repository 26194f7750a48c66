"""Residual addition and normalisation in one pass."""
