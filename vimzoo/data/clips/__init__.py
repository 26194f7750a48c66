"""Clips of films for classification: which frames, which crops, and reading them from files."""
