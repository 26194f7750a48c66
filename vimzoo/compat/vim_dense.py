"""The Vim authors' backbones for segmentation and detection (hustvl/Vim: seg/backbone/vim.py, det's vim.py)."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vimzoo.layers import Add
from vimzoo.models.vim.dense import VimDense

from .attributes import Alias, Computed, Fixed, OfficialModel, defaults_of, given_arguments, refuse_unknown
from .mamba_ssm.modules.mamba_simple import refuse_inference
from .official import accept_official_names
from .vim_model import SECOND_SPELLING, WITHOUT_EFFECT, VisionMamba, model_options

_DEFAULTS = defaults_of(VisionMamba.__init__)


def _options(kind: str, given: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's arguments, among them ``extra`` ones of `VisionMamba` -> `VimDense`'s."""
    refuse_unknown(kind, extra, (*_DEFAULTS, *WITHOUT_EFFECT, SECOND_SPELLING))
    if extra.get("initializer_cfg"):
        raise ValueError(f"initializer_cfg: expected None, {kind} initialises its layers anew in theirs")
    shared = {name: value for name, value in given.items() if name in (*_DEFAULTS, SECOND_SPELLING)}
    return model_options({**_DEFAULTS, **shared, "channels": given["in_chans"]})


class _Backbone(OfficialModel, VimDense):
    """What both backbones have."""

    layers = Alias("blocks")
    d_model = Alias("embed_dim")
    use_checkpoint = Alias("grad_checkpointing")
    last_layer_process = Alias("last")
    if_fpn = Fixed()

    @Computed
    def num_tokens(self) -> int:
        """0: there is no class token."""
        return 0

    def init_weights(  # type: ignore[override]
        self, pretrained: str | os.PathLike[str] | None = None, *, needs_reset: bool = True
    ) -> None:
        """New initial values, or those of ``pretrained``, a classifier's file.

        Raises:
            vimzoo.CheckpointError: the file does not fit.
        """
        if pretrained is None:
            super().init_weights(needs_reset)
        else:
            self.load_classifier(pretrained)

    def forward_features(self, x: Tensor, inference_params: Any = None) -> Any:
        """What ``forward`` returns, as in theirs."""
        refuse_inference(inference_params)
        return self(x)

    def get_num_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def _finish(self, given: dict[str, Any]) -> None:
        self.arguments = given
        self.set_grad_checkpointing(given["use_checkpoint"])
        if given["pretrained"] is not None:
            self.load_classifier(given["pretrained"])


class VisionMambaSeg(_Backbone):
    """The authors' mmseg backbone. Like theirs, it has no class token, whatever ``if_cls_token`` says.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
        vimzoo.CheckpointError: ``pretrained``, a classifier's file, does not fit.
    """

    use_residual_as_feature = Fixed()

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        in_chans: int = 3,
        num_classes: int = 80,
        embed_dim: int = 192,
        depth: int = 24,
        use_checkpoint: bool = False,
        pretrained: str | os.PathLike[str] | None = None,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        if_fpn: bool = True,
        use_residual_as_feature: bool = False,
        last_layer_process: str = "none",
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        features = "stream" if use_residual_as_feature else "hidden"
        options = _options("VisionMambaSeg", given, kwargs)
        super().__init__(out_indices, features, last_layer_process, if_fpn, **options)
        self._finish(given)
        accept_official_names(self)


class ShapeSpec(NamedTuple):
    """What detectron2 asks of a backbone's map; any height and width."""

    channels: int
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class VisionMambaDet(_Backbone):
    """The authors' detectron2 backbone: one map of the last block, in a dict.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
        vimzoo.CheckpointError: ``pretrained``, a classifier's file, does not fit.
    """

    size_divisibility = 0

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 80,
        embed_dim: int = 192,
        depth: int = 24,
        use_checkpoint: bool = False,
        pretrained: str | os.PathLike[str] | None = None,
        if_fpn: bool = True,
        last_layer_process: str = "none",
        out_feature: str = "last_feat",
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        options = _options("VisionMambaDet", given, kwargs)
        super().__init__((depth - 1,), "stream", last_layer_process, False, **options)
        self.out_feature = out_feature
        self._finish(given)
        if last_layer_process != "add & norm":  # theirs has no norm in its state, and cannot run this option
            self.norm = Add()  # type: ignore[assignment]
        accept_official_names(self)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the map by its name; the stride is the patch size, as in theirs."""
        return {self.out_feature: ShapeSpec(self.embed_dim, stride=self.patch_embed.patch_size[0])}

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> ``{out_feature: (B, D, h, w)}``."""
        return {self.out_feature: self._maps(x)[0]}
