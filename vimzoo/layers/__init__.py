"""Modules that any backbone may use: the state-space core, Vim's mixer, norms and embeddings."""

from .bimamba import BiMamba, BiMambaBlock, CausalConv
from .linear import Linear
from .norm import Add, AddNorm
from .patch_embed import PatchEmbed
from .rope import GridRope
from .ssm import SelectiveSSM

__all__ = [
    "Add",
    "AddNorm",
    "BiMamba",
    "BiMambaBlock",
    "CausalConv",
    "GridRope",
    "Linear",
    "PatchEmbed",
    "SelectiveSSM",
]
