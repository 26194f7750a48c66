"""The arguments that all of the authors' models have, as ours."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..attributes import Alias, Fixed, OfficialModel
from ..mamba_ssm.modules.mamba_simple import refuse_inference
from ..vim_model import WITHOUT_EFFECT, mixer_options
from .mamba_simple import bimamba_type

__all__ = ["WITHOUT_EFFECT", "Attributes", "model_options"]


class Attributes(OfficialModel):
    """The attributes that the authors' models have."""

    layers, d_model = Alias("blocks"), Alias("embed_dim")
    fused_add_norm, residual_in_fp32 = Fixed(), Fixed()

    def get_num_layers(self) -> int:
        """The number of blocks."""
        blocks: nn.ModuleList = self.blocks  # type: ignore[assignment]
        return len(blocks)

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: Any = None, **kwargs: Any
    ) -> None:
        """Refused: raises ``NotImplementedError``."""
        refuse_inference("allocate_inference_cache")


def model_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the authors' models -> `vimzoo.models.Vim`'s.

    Raises:
        TypeError: ``ssm_cfg`` has an unknown entry.
        ValueError: ``initializer_cfg`` is given.
    """
    if cfg := given["initializer_cfg"]:
        raise ValueError(f"initializer_cfg: expected None, others are not offered, got {cfg!r}")
    mixer = dict(given["ssm_cfg"] or {})
    state = {"d_state": mixer.pop("d_state")} if "d_state" in mixer else {}
    return dict(
        img_size=given["img_size"], patch_size=given["patch_size"], depth=given["depth"], embed_dim=given["embed_dim"],
        in_chans=given["channels"], drop_path_rate=given["drop_path_rate"], norm_eps=given["norm_epsilon"],
        norm="rms" if given["rms_norm"] else "layer", residual_in_fp32=given["residual_in_fp32"],
        bimamba=bimamba_type(given["bimamba"]), divide_out=False, cls_token="head", init="equal_steps",
        device=given["device"], dtype=given["dtype"], **state, **mixer_options(mixer, whole_model=True),
    )  # fmt: skip
