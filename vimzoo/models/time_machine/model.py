"""TimeMachine: forecasts of several series by four Mamba mixers at two resolutions (Ahamed & Cheng 2024).

It forecasts and neither classifies nor restores, so the trainer does not know it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.layers import BiMamba
from vimzoo.layers.checks import check_rates, check_sizes, check_tokens
from vimzoo.layers.linear import apply_linear

from ..inputs import Input, ModelWithInputs
from ..weights.dialect import Dialect
from .names import is_official, slots

__all__ = ["TIME_MACHINE", "TimeMachine"]

EPS = 1e-5
"""Added to the variance of a series."""


class TimeMachine(ModelWithInputs):
    """The next steps of several series from their last ones.

    Each series is normalised and projected to ``n1`` numbers, and these to ``n2``. At both widths one mixer reads the
    series and one, transposed, the numbers of each series; what they give is added, concatenated and projected to the
    forecast. The authors' option names are given in parentheses.

    Args:
        channels: Number of series C (``enc_in``).
        seq_len, pred_len: Steps that are given and steps that are forecast.
        n1, n2: Widths.
        independent: Mix each series on its own; the transposed mixers then have one channel. Otherwise the C series
            are the sequence of all four mixers, and none is transposed (``ch_ind``).
        affine: Normalise with a learned scale and shift per series, through whose statistics no gradient flows
            (``revin``); otherwise without.
        residual: Add the inputs of the mixers' halves to their outputs.
        dropout: Dropout after the two projections.
        d_state, d_conv, expand: As in `BiMamba` (``d_state``, ``dconv``, ``e_fact``).

    Raises:
        ValueError: a size is not positive, or ``dropout`` is not in 0..1.
    """

    def __init__(
        self,
        channels: int,
        seq_len: int = 96,
        pred_len: int = 96,
        n1: int = 256,
        n2: int = 128,
        independent: bool = True,
        affine: bool = True,
        residual: bool = True,
        dropout: float = 0.05,
        d_state: int = 256,
        d_conv: int = 2,
        expand: float = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(channels=channels, seq_len=seq_len, pred_len=pred_len, n1=n1, n2=n2)
        check_rates(dropout=dropout)
        self.channels, self.seq_len, self.pred_len = channels, seq_len, pred_len
        self.independent, self.residual = independent, residual
        self.num_features = 2 * n1
        self.inputs = {"series": Input((seq_len, channels), 0)}
        self.scale = nn.Parameter(torch.ones(channels, **dd)) if affine else None
        self.shift = nn.Parameter(torch.zeros(channels, **dd)) if affine else None

        def mixer(dim: int) -> BiMamba:
            return BiMamba(dim, "none", d_state, d_conv, expand, **dd)

        self.lin1, self.dropout1 = nn.Linear(seq_len, n1, **dd), nn.Dropout(dropout)
        self.lin2, self.dropout2 = nn.Linear(n1, n2, **dd), nn.Dropout(dropout)
        self.mamba1, self.mamba2 = mixer(1 if independent else n2), mixer(n2)
        self.mamba3, self.mamba4 = mixer(n1), mixer(1 if independent else n1)
        self.lin3, self.lin4 = nn.Linear(n2, n1, **dd), nn.Linear(2 * n1, pred_len, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Series ``(B, seq_len, C)`` -> forecasts ``(B, pred_len, C)``.

        Raises:
            ValueError: ``x`` is not such a batch.
        """
        x = check_tokens(x, self.channels)
        if x.shape[1] != self.seq_len:
            raise ValueError(f"x: expected {self.seq_len} steps, got {x.shape[1]}")
        mean = x.mean(1, keepdim=True).detach()
        deviation = (x.var(1, keepdim=True, unbiased=False) + EPS).sqrt()
        if self.scale is not None:
            deviation = deviation.detach()
        x = (x - mean) / deviation
        if self.scale is not None and self.shift is not None:
            x = x * self.scale + self.shift
        y = self._forecast(x.transpose(1, 2)).transpose(1, 2)
        if self.scale is not None and self.shift is not None:
            y = (y - self.shift) / (self.scale + EPS * EPS)
        return y * deviation + mean

    def _forecast(self, x: Tensor) -> Tensor:
        """Normalised series ``(B, C, seq_len)`` -> ``(B, C, pred_len)``."""
        batch = x.shape[0]
        if self.independent:
            x = x.reshape(-1, 1, self.seq_len)
        wide = apply_linear(self.lin1, x)
        x = self.dropout1(wide)
        upper = self.mamba3(x) + self._across(self.mamba4, x)
        narrow = apply_linear(self.lin2, x)
        x = self.dropout2(narrow)
        lower = self._across(self.mamba1, x) + self.mamba2(x)
        lower = apply_linear(self.lin3, lower + narrow if self.residual else lower)
        lower = lower + wide if self.residual else lower
        y = apply_linear(self.lin4, torch.cat([lower, upper], 2))
        return y.reshape(batch, self.channels, self.pred_len)

    def _across(self, mixer: nn.Module, x: Tensor) -> Tensor:
        return mixer(x.transpose(1, 2)).transpose(1, 2) if self.independent else mixer(x)


TIME_MACHINE = Dialect((TimeMachine,), slots, is_official, dict)
TimeMachine.dialect = TIME_MACHINE
