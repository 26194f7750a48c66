"""FusionMamba, twice: two networks of one name that make one image of two.

`SpectralFusionMamba` sharpens an image of many bands with a finer one of few: `FusionMamba: Efficient Image Fusion with
State Space Model`, Peng et al., IEEE TGRS 2024, arXiv:2404.07932; code by its authors at
https://github.com/PSRben/FusionMamba.

`MultimodalFusionMamba` joins two pictures of one scene: `FusionMamba: Dynamic Feature Enhancement for Multimodal Image
Fusion with Mamba`, Xie et al., 2024, arXiv:2404.09498; code by its authors at https://github.com/millieXie/FusionMamba.

Neither repository states a licence.
"""

from .multimodal import MultimodalFusionMamba
from .spectral import SpectralFusionMamba

__all__ = ["MultimodalFusionMamba", "SpectralFusionMamba"]
