"""Architectures, one family per folder; importing this registers them with timm."""

from .mambair import MambaIR, MambaIRUNet, MambaIRv2, load_restoration
from .vim import Vim
from .vmamba import VMamba
from .weights.loading import CheckpointError, load_checkpoint, read_checkpoint

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
