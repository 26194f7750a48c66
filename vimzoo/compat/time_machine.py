"""The TimeMachine authors' constructor (Atik-Ahamed/TimeMachine: TimeMachine_supervised/models/TimeMachine.py).

``Model(configs)`` returns our module: it reads the entries of their command line, and ``load_state_dict`` takes their
keys. `official_state_dict` and `official_gradients` write state and gradients back under their names.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from vimzoo.layers import BiMamba
from vimzoo.models.time_machine import TimeMachine
from vimzoo.models.vim.names import VIM
from vimzoo.models.weights.dialect import Dialect, Slot

from .official import Named, accept_official_names, official_gradients, official_state_dict

__all__ = ["Model", "official_gradients", "official_state_dict"]

_NORM = {"scale": "revin_layer.affine_weight", "shift": "revin_layer.affine_bias"}


def _slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor: those of the four mixers as Vim's authors name them."""
    mixers = {name: part for name, part in module.named_children() if isinstance(part, BiMamba)}
    found = [
        Slot(_NORM.get(name, name), name, tuple(value.shape))
        for name, value in module.state_dict().items()
        if name.partition(".")[0] not in mixers
    ]
    for prefix, mixer in mixers.items():
        for slot in VIM.slots(mixer):
            found.append(replace(slot, official=f"{prefix}.{slot.official}", ours=f"{prefix}.{slot.ours}"))
    return found


def _is_official(names: Iterable[str]) -> bool:
    return any(name.startswith(("revin_layer.", "mamba1.A_log")) for name in names)


class Model(Named, TimeMachine):
    """TimeMachine with the authors' configuration.

    Args:
        configs: An object with their options as attributes: ``revin``, ``seq_len``, ``pred_len``, ``n1``, ``n2``,
            ``dropout``, ``ch_ind``, ``d_state``, ``dconv``, ``e_fact``, ``residual`` and ``enc_in``.

    Raises:
        AttributeError: an option is missing.
        ValueError: a size is not positive.
    """

    dialect = Dialect((TimeMachine,), _slots, _is_official, dict)

    def __init__(self, configs: Any) -> None:
        super().__init__(
            configs.enc_in, configs.seq_len, configs.pred_len, configs.n1, configs.n2, configs.ch_ind == 1,
            configs.revin == 1, configs.residual == 1, configs.dropout, configs.d_state, configs.dconv, configs.e_fact,
        )  # fmt: skip
        self.configs = configs
        accept_official_names(self)
