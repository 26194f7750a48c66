"""Architectures, one family per file; importing this registers them with timm."""

from .checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from .vim import Vim
from .vmamba import VMamba

__all__ = ["CheckpointError", "VMamba", "Vim", "load_checkpoint", "read_checkpoint"]
