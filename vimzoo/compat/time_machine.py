"""The TimeMachine authors' constructor (Atik-Ahamed/TimeMachine: TimeMachine_supervised/models/TimeMachine.py).

``Model(configs)`` returns our module: it reads the entries of their command line, and ``load_state_dict`` takes their
keys. `official_state_dict` and `official_gradients` write state and gradients back under their names.
"""

from typing import Any

from vimzoo.models.time_machine import TimeMachine

from .official import accept_official_names, official_gradients, official_state_dict

__all__ = ["Model", "official_gradients", "official_state_dict"]


class Model(TimeMachine):
    """TimeMachine with the authors' configuration.

    Args:
        configs: An object with their options as attributes: ``revin``, ``seq_len``, ``pred_len``, ``n1``, ``n2``,
            ``dropout``, ``ch_ind``, ``d_state``, ``dconv``, ``e_fact``, ``residual`` and ``enc_in``.

    Raises:
        AttributeError: an option is missing.
        ValueError: a size is not positive.
    """

    def __init__(self, configs: Any) -> None:
        super().__init__(
            configs.enc_in, configs.seq_len, configs.pred_len, configs.n1, configs.n2, configs.ch_ind == 1,
            configs.revin == 1, configs.residual == 1, configs.dropout, configs.d_state, configs.dconv, configs.e_fact,
        )  # fmt: skip
        self.configs = configs
        accept_official_names(self)
