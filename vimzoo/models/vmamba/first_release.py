"""What networks for segmentation take from VMamba's first release: its stages, and the weights of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import timm
from timm.layers import calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from vimzoo.layers import MapDownsample, VSSBlock

from ..staged import Stage
from ..weights.contents import bare
from ..weights.loading import CheckpointError
from ..weights.reader import read_tensors
from .names import VMAMBA, is_official, slots, spell

__all__ = ["blocks", "check_encoder", "drop_rates", "encoder_tensors", "init_linears", "stages", "widths_of"]

BLOCK: dict[str, Any] = dict(ratio=2.0, conv_bias=True, gate="act", mlp_ratio=0.0, norm="layer")
"""Options of `VSSBlock` in that release."""


def blocks(dim: int, rates: Iterable[float], d_state: int = 16) -> list[nn.Module]:
    """Blocks of one stage, one for each rate of stochastic depth."""
    return [VSSBlock(dim, d_state, drop_path=rate, **BLOCK) for rate in rates]


def stages(
    widths: Sequence[int], depths: Sequence[int], d_state: int = 16, drop_path_rate: float = 0.0
) -> nn.Sequential:
    """The stages of an encoder; each but the first begins with a step to half the height and width."""
    rates = iter(drop_rates(drop_path_rate, sum(depths)))
    built = nn.Sequential()
    for i, width in enumerate(widths):
        down = MapDownsample(widths[i - 1], width, "merge", "layer") if i else nn.Identity()
        built.append(Stage(down, blocks(width, [next(rates) for _ in range(depths[i])], d_state)))
    return built


def widths_of(dims: int | Sequence[int], depths: Sequence[int]) -> list[int]:
    """Channels of each stage; one number doubles from stage to stage."""
    return [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else list(dims)


def drop_rates(last: float, count: int) -> list[float]:
    """Rates of stochastic depth of ``count`` blocks, from 0 to ``last``."""
    rates: Any = calculate_drop_path_rates(last, count)
    return list(rates)


def init_linears(module: nn.Module) -> None:
    """Linear layers as the authors begin with them: a deviation of 0.02, no bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def encoder_tensors(
    encoder: nn.Module, path: str | os.PathLike[str] | None, default: str
) -> tuple[dict[str, Tensor], str]:
    """Those tensors of a VMamba that an encoder with our names of its layers has, too, and where they are from.

    Names of VMamba's later releases are taken, too.

    Args:
        encoder: A module with parts ``patch_embed`` and ``stages``.
        path: A file; None takes the published weights of the registered model ``default``.

    Raises:
        CheckpointError: tensors have shapes that their names cannot have.
    """
    if path is None:
        tensors: Mapping[str, Tensor] = timm.create_model(default, pretrained=True).state_dict()
    else:
        tensors = bare(read_tensors(path))
    own, source = encoder.state_dict(), str(path or default)
    if is_official(tensors):
        known = {slot.official for slot in slots(encoder)}
        spelled = {name: tensor for name, tensor in spell(tensors).items() if name in known}
        try:
            tensors = VMAMBA.to_native(spelled, encoder)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
    return {name: tensor for name, tensor in tensors.items() if name in own}, source


def check_encoder(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor], wanted: Iterable[str], source: str
) -> None:
    """Check that tensors were found and fit.

    Raises:
        CheckpointError: one of ``wanted`` is missing, or the shape of one differs from that in ``own``.
    """
    missing = [name for name in wanted if name not in found]
    wrong = [name for name, tensor in found.items() if tensor.shape != own[name].shape]
    if missing or wrong:
        raise CheckpointError(
            f"{source}: {len(missing)} tensors of the encoder are missing, {len(wrong)} have another shape: "
            f"{', '.join([*missing, *wrong][:4])}; expected a VMamba of the first release with these widths"
        )
