"""Checks of a sweep (``python train.py -m``) before its first run."""

from __future__ import annotations

import importlib.metadata
import shutil
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
        sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
        problem = slurm_problem() if "SlurmLauncher" in launcher.get("_target_", "") else None
        if "hydra_optuna_sweeper" in sweeper.get("_target_", ""):
            versions = map(importlib.metadata.version, ("hydra-core", "hydra-optuna-sweeper"))
            problem = problem or optuna_problem(*versions) or storage_problem(sweeper.get("storage"))
        if problem:
            sys.exit(f"error: {problem}")


def slurm_problem() -> str | None:
    """Why no job can be handed to SLURM from here; None if it can."""
    if shutil.which("srun") is None:
        return (
            "hydra/launcher=submitit_slurm: no command srun on this machine, which a SLURM cluster has; "
            "hydra/launcher=submitit_local runs the jobs here"
        )
    return None


def storage_problem(storage: object) -> str | None:
    """Why Optuna cannot go on with the study kept at the URL ``storage``; None if it can, or keeps none."""
    if not isinstance(storage, str):
        return None
    import optuna

    try:
        optuna.storages.get_storage(storage)
    except Exception as error:  # of Optuna, of SQLAlchemy, or of a database's driver
        reason = str(error).splitlines()[0].replace("$STORAGE_URL", storage).rstrip(".")
        return (
            f"hydra.sweeper.storage={storage}: {reason}; "
            "or begin a new study: hydra.sweeper.storage=sqlite:///new.db"
        )
    return None


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
