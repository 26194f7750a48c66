"""Architectures, one family per file; importing this registers them with timm."""

from .checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from .vim import Vim

__all__ = ["CheckpointError", "Vim", "load_checkpoint", "read_checkpoint"]
