"""Checks of a sweep (``python train.py -m``) before its first run."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepCheck(Callback):
    """Hydra callback of configs/train.yaml that refuses sweeps which cannot work here.

    It ends the process instead of raising: Hydra turns a callback's exceptions into warnings.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the composed configuration, with its group ``hydra``, before the sweeper exists."""
        if "hydra_optuna_sweeper" in config.hydra.sweeper.get("_target_", "") and (
            problem := optuna_problem(
                importlib.metadata.version("hydra-core"), importlib.metadata.version("hydra-optuna-sweeper")
            )
        ):
            sys.exit(f"error: {problem}")


def optuna_problem(hydra: str, sweeper: str) -> str | None:
    """Why these versions of hydra-core and hydra-optuna-sweeper do not work together; None if they do.

    Releases of the sweeper up to 1.3 rely on Hydra to build their sampler, which Hydra 1.4 no longer does.
    """
    if _release(hydra) >= (1, 4) > _release(sweeper):
        return (
            f"hydra/sweeper=optuna: hydra-optuna-sweeper {sweeper} does not work with hydra-core {hydra}; "
            "expected hydra-core 1.3: pip install 'hydra-core<1.4'"
        )
    return None


def _release(version: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
