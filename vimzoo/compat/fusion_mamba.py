"""The constructors of both FusionMambas' authors, returning our modules.

``U2Net`` is that of PSRben/FusionMamba (model/u2net.py), which sharpens an image of many bands; ``VSSM_Fusion`` that of
millieXie/FusionMamba (models/vmamba_Fusion_efficross.py), which joins two pictures of one scene. ``load_state_dict``
takes the authors' keys. `official_state_dict` and `official_gradients` write state and gradients back under their
names.
"""

from collections.abc import Sequence

from vimzoo.models.fusion_mamba import MultimodalFusionMamba, SpectralFusionMamba

from .official import accept_official_names, official_gradients, official_state_dict

__all__ = ["U2Net", "VSSM_Fusion", "official_gradients", "official_state_dict"]


class U2Net(SpectralFusionMamba):
    """The spectral FusionMamba.

    It is called with the coarse image ``(B, ms_dim, H / scale, W / scale)`` and the fine one ``(B, pan_dim, H, W)``,
    and gives ``(B, ms_dim, H, W)``.

    Args:
        dim, pan_dim, ms_dim, scale: As `SpectralFusionMamba` takes them.
        H, W: Without effect: theirs is made for one size, ours takes any in multiples of 4.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self, dim: int = 32, pan_dim: int = 1, ms_dim: int = 8, H: int = 64, W: int = 64, scale: int = 4
    ) -> None:
        super().__init__(dim, pan_dim, ms_dim, scale)
        accept_official_names(self)


class VSSM_Fusion(MultimodalFusionMamba):
    """The multimodal FusionMamba, two pictures ``(B, 1, H, W)`` -> ``(B, 1, H, W)``.

    Args:
        depths, depths_decoder, dims: As `MultimodalFusionMamba` takes them.
        dims_decoder: Must be ``dims`` reversed.
        in_channel: Without effect in theirs, whose pictures have one channel; must be 1.

    Raises:
        ValueError: a number is not positive, the two sides differ, or ``in_channel`` is not 1.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 9, 2),
        depths_decoder: Sequence[int] = (2, 9, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        dims_decoder: Sequence[int] = (768, 384, 192, 96),
        in_channel: int = 1,
    ) -> None:
        if list(dims_decoder) != list(dims)[::-1]:
            raise ValueError(f"dims_decoder={list(dims_decoder)}: expected {list(dims)[::-1]}, as dims say")
        if in_channel != 1:
            raise ValueError(f"in_channel={in_channel}: expected 1, as the authors' network has")
        super().__init__(depths, depths_decoder, dims)
        accept_official_names(self)
