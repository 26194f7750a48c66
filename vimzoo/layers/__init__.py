"""Modules that any backbone may use: the state-space core, Vim's and VMamba's mixers, norms and embeddings."""

from .bimamba import BiMamba, BiMambaBlock, CausalConv
from .channel_gate import ChannelGate
from .conv_embed import ExpandingDownsample, ResidualStem
from .efficient import AtrousBlock, AtrousSS2D
from .grid_mamba import GridMamba
from .grouped import GroupBlock, GroupSS2D
from .linear import Linear, apply_linear
from .local import LocalMamba, LocalMambaBlock, LocalSS2D, LocalVSSBlock, searched_directions
from .map_embed import MapDownsample, MapExpand, MapStem
from .maps import MapBatchNorm
from .mila import GatedLinearAttention, MilaBlock, RotaryLinearAttention
from .mlp import ConvMlp, Mlp
from .mobile import MobileBlock, MobileDownsample
from .moe import MoE
from .norm import Add, AddNorm
from .patch_embed import PatchEmbed
from .plain_mamba import PlainMambaBlock, SnakeSS2D
from .position_block import PositionBlock
from .quantized import QuantizedLinear
from .residual_convs import ResidualConvs
from .rope import GridRope
from .s4d import S4D
from .spatial import SpatialBlock, SpatialSS2D, StateFusion
from .ss2d import SS2D
from .ssm import SelectiveSSM
from .tubelet_embed import TubeletEmbed
from .volumes import SS3D, VSSBlock3d
from .vss_block import VSSBlock, VSSBlock2d
from .wavelet import WaveletMixer

__all__ = [
    "S4D",
    "SS2D",
    "SS3D",
    "Add",
    "AddNorm",
    "AtrousBlock",
    "AtrousSS2D",
    "BiMamba",
    "BiMambaBlock",
    "CausalConv",
    "ChannelGate",
    "ConvMlp",
    "ExpandingDownsample",
    "GatedLinearAttention",
    "GridMamba",
    "GridRope",
    "GroupBlock",
    "GroupSS2D",
    "Linear",
    "LocalMamba",
    "LocalMambaBlock",
    "LocalSS2D",
    "LocalVSSBlock",
    "MapBatchNorm",
    "MapDownsample",
    "MapExpand",
    "MapStem",
    "MilaBlock",
    "Mlp",
    "MoE",
    "MobileBlock",
    "MobileDownsample",
    "PatchEmbed",
    "PlainMambaBlock",
    "PositionBlock",
    "QuantizedLinear",
    "ResidualConvs",
    "ResidualStem",
    "RotaryLinearAttention",
    "SelectiveSSM",
    "SnakeSS2D",
    "SpatialBlock",
    "SpatialSS2D",
    "StateFusion",
    "TubeletEmbed",
    "VSSBlock",
    "VSSBlock2d",
    "VSSBlock3d",
    "WaveletMixer",
    "apply_linear",
    "searched_directions",
]
