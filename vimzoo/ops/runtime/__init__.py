"""Backends of the operators: how they are found, loaded, chosen and called."""
