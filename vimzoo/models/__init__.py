"""Architectures, a folder for each family; importing this registers them with timm."""

from .efficient_vmamba import EfficientVMamba
from .fusion_mamba import MultimodalFusionMamba, SpectralFusionMamba
from .group_mamba import GroupMamba
from .inferred import load_restoration, restoration_from_tensors
from .local_vim import LocalVim
from .local_vmamba import LocalVMamba
from .mambair import MambaIR, MambaIRUNet, MambaIRv2
from .matrices import fallback_list
from .mila import MILA
from .mobile_mamba import MobileMamba
from .plain_mamba import PlainMamba
from .registry import FAMILIES
from .segmentation_base import SegmentationModel
from .spatial_mamba import SpatialMamba
from .swin_umamba import SwinUMamba, SwinUMambaD
from .time_machine import TimeMachine
from .u_mamba import UMamba
from .unet import UNet
from .videomamba import VideoMamba
from .vim import Vim
from .vm_unet import VMUNet
from .vmamba import VMamba
from .weights.loading import CheckpointError, load_checkpoint, read_checkpoint
from .weights.saving import save_for_hf

__all__ = [
    "FAMILIES",
    "MILA",
    "CheckpointError",
    "EfficientVMamba",
    "GroupMamba",
    "LocalVMamba",
    "LocalVim",
    "MambaIR",
    "MambaIRUNet",
    "MambaIRv2",
    "MobileMamba",
    "MultimodalFusionMamba",
    "PlainMamba",
    "SegmentationModel",
    "SpatialMamba",
    "SpectralFusionMamba",
    "SwinUMamba",
    "SwinUMambaD",
    "TimeMachine",
    "UMamba",
    "UNet",
    "VMUNet",
    "VMamba",
    "VideoMamba",
    "Vim",
    "fallback_list",
    "load_checkpoint",
    "load_restoration",
    "read_checkpoint",
    "restoration_from_tensors",
    "save_for_hf",
]
