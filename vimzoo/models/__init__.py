"""Architectures, one family per file; importing this registers them with timm."""

from .checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from .mambair import MambaIR, MambaIRUNet, MambaIRv2, load_restoration
from .vim import Vim
from .vmamba import VMamba

__all__ = [
    "CheckpointError",
    "MambaIR",
    "MambaIRUNet",
    "MambaIRv2",
    "VMamba",
    "Vim",
    "load_checkpoint",
    "load_restoration",
    "read_checkpoint",
]
