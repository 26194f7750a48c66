"""SegMamba: segmentation of volumes by Mamba mixers that also read across the slices.

`SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation`, Xing et al., MICCAI 2024,
arXiv:2401.13560; code by its authors at https://github.com/ge-xing/SegMamba, without a licence of its own, so this is
written from the paper.
"""

from .model import GatedConv, SegMamba, SegMambaEncoder
from .names import SEGMAMBA

__all__ = ["SEGMAMBA", "GatedConv", "SegMamba", "SegMambaEncoder"]
