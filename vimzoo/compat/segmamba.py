"""The SegMamba authors' constructors (ge-xing/SegMamba: model_segmamba/segmamba.py), returning our modules.

Arguments keep their names, positions, defaults and meaning, and ``load_state_dict`` takes the authors' keys.
`official_state_dict` and `official_gradients` write state and gradients back under their names.
`vimzoo.models.segmamba` documents each option. Arguments without effect in theirs have none here: ``drop_path_rate``,
``layer_scale_init_value``, ``conv_block``, ``res_block`` and ``spatial_dims``.

Upstream bugs that are not imitated: the output layer takes the width of the first stage, not always 48 channels.
"""

from collections.abc import Sequence

from vimzoo.layers import GridMamba
from vimzoo.models.segmamba import model
from vimzoo.models.segmamba.names import SEGMAMBA, checkpoint_filter_fn

from .official import Named, accept_official_names, official_gradients, official_state_dict

__all__ = [
    "GSC", "MambaEncoder", "MambaLayer", "MlpChannel", "SegMamba", "official_gradients", "official_state_dict",
]  # fmt: skip


class GSC(Named, model.GatedConv):
    """Their convolutions before the mixers, ``in_channles`` of them."""

    dialect = SEGMAMBA

    def __init__(self, in_channles: int) -> None:
        super().__init__(in_channles)
        accept_official_names(self)


class MlpChannel(Named, model.ChannelMlp):
    """Their pointwise convolutions."""

    dialect = SEGMAMBA

    def __init__(self, hidden_size: int, mlp_dim: int) -> None:
        super().__init__(hidden_size, mlp_dim)
        accept_official_names(self)


class MambaLayer(Named, GridMamba):
    """Norm, their mixer of three directions, and the input added.

    Raises:
        ValueError: a size is not positive.
    """

    dialect = SEGMAMBA

    def __init__(
        self, dim: int, d_state: int = 16, d_conv: int = 4, expand: float = 2, num_slices: int | None = None
    ) -> None:
        options = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        super().__init__(dim, "v3", num_slices or 1, mixer_args=options)
        accept_official_names(self)


class MambaEncoder(Named, model.SegMambaEncoder):
    """Their encoder; returns a list of four volumes, theirs is a tuple.

    Raises:
        ValueError: a number is not positive, or the lists differ in length.
    """

    dialect = SEGMAMBA

    def __init__(
        self,
        in_chans: int = 1,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        out_indices: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        if list(out_indices) != [0, 1, 2, 3]:
            raise ValueError(f"out_indices: expected [0, 1, 2, 3], got {list(out_indices)}")
        super().__init__(in_chans, depths, dims)
        accept_official_names(self)


class SegMamba(Named, model.SegMamba):
    """Their network. Volumes of any size are padded to multiples of 32, and the scores cropped.

    Raises:
        ValueError: a number is not positive, or the lists differ in length.
    """

    dialect = SEGMAMBA
    filter_fn = staticmethod(checkpoint_filter_fn)

    def __init__(
        self,
        in_chans: int = 1,
        out_chans: int = 13,
        depths: Sequence[int] = (2, 2, 2, 2),
        feat_size: Sequence[int] = (48, 96, 192, 384),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        hidden_size: int = 768,
        norm_name: str = "instance",
        conv_block: bool = True,
        res_block: bool = True,
        spatial_dims: int = 3,
    ) -> None:
        if norm_name != "instance":
            raise ValueError(f"norm_name: expected 'instance', got {norm_name!r}")
        super().__init__(in_chans, out_chans, depths, feat_size, hidden_size)
        accept_official_names(self)
