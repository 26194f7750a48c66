"""TimeMachine, which forecasts time series: facts about its models, and their registration with timm.

`TimeMachine: A Time Series is Worth 4 Mambas for Long-term Forecasting`, Ahamed & Cheng, ECAI 2024, arXiv:2403.09898;
code by its authors at https://github.com/Atik-Ahamed/TimeMachine (Apache-2.0).
"""

from collections.abc import Mapping
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import Tensor

from ..family import Family
from ..inputs import build_with_inputs
from ..network_facts import ForecastFacts
from .model import TIME_MACHINE, TimeMachine
from .names import holds_time_machine

__all__ = ["FAMILY", "TIME_MACHINE_FACTS", "TimeMachine"]

_SOURCE: dict[str, Any] = dict(origin="https://github.com/Atik-Ahamed/TimeMachine", paper="2403.09898")

TIME_MACHINE_FACTS: dict[str, ForecastFacts] = {
    facts.name: facts
    for facts in (
        ForecastFacts(
            "time_machine_etth2_96_96", "the last 96 steps of 7 series to the next 96",
            args=dict(channels=7, n1=128, n2=32, dropout=0.7), input_size=(1, 96, 7), params=225_090,
            recipe="ETTh2, 100 epochs, batch 512, lr 1e-3, by the authors' `etth2.sh`",
            note="other horizons by `pred_len`, for which the authors change `n1` and `n2`, too", **_SOURCE,
        ),
        ForecastFacts(
            "test_time_machine", "for tests", args=dict(channels=3, seq_len=16, pred_len=8, n1=8, n2=4, d_state=4),
            input_size=(1, 16, 3), params=866, **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name."""


def _detected(state: Mapping[str, Tensor]) -> type[TimeMachine] | None:
    return TimeMachine if holds_time_machine(state) else None


FAMILY = Family("TimeMachine", TIME_MACHINE_FACTS, TIME_MACHINE, _detected)

default_cfgs = generate_default_cfgs(
    {name: cfg for facts in TIME_MACHINE_FACTS.values() for name, cfg in facts.timm_cfgs().items()}
)


def _create_time_machine(variant: str, pretrained: bool = False, **kwargs: Any) -> TimeMachine:
    return build_with_inputs(
        TimeMachine, variant, pretrained, **{**TIME_MACHINE_FACTS[variant].args, **kwargs}
    )


@register_model
def time_machine_etth2_96_96(pretrained: bool = False, **kwargs: Any) -> TimeMachine:
    """TimeMachine as it was trained on ETTh2, 96 steps from 96."""
    return _create_time_machine("time_machine_etth2_96_96", pretrained, **kwargs)


@register_model
def test_time_machine(pretrained: bool = False, **kwargs: Any) -> TimeMachine:
    """A small model for tests."""
    return _create_time_machine("test_time_machine", pretrained, **kwargs)
