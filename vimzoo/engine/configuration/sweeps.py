"""Sweeps (``python train.py -m``): checks before the first run, a summary after the last."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vimzoo.commands import Exit, report
from vimzoo.errors import UsageError, first_line

FAILED = "error.txt"
"""In the folder of a run that failed: its overrides on the first line, then the reason."""


def note_failure(out: Path, words: Sequence[str], error: BaseException) -> None:
    """Leave a note for the summary, which another process may write."""
    report(error)
    with contextlib.suppress(OSError):  # a full disk
        out.mkdir(parents=True, exist_ok=True)
        (out / FAILED).write_text(f"{shlex.join(words)}\n{error}\n", errors="backslashreplace")


class SweepCheck(Callback):
    """Hydra callback of configs/train.yaml that refuses what cannot work here, and tells which runs of a sweep failed.

    It ends the process instead of raising: Hydra turns a callback's exceptions into warnings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the run folder, of which Hydra would only say where it failed."""
        make_folder("hydra.run.dir", config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the composed configuration, with its group ``hydra``, before the sweeper exists."""
        sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
        problem = slurm_problem() if "SlurmLauncher" in launcher.get("_target_", "") else None
        if "hydra_optuna_sweeper" in sweeper.get("_target_", ""):
            versions = map(importlib.metadata.version, ("hydra-core", "hydra-optuna-sweeper"))
            problem = problem or optuna_problem(*versions) or storage_problem(sweeper.get("storage"))
        if problem:
            sys.exit(report(UsageError(problem)))
        make_folder("hydra.sweep.dir", config.hydra.sweep.dir)
        self.begun = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """List the runs that failed; the exit status is 1 if there are any."""
        folder = Path(config.hydra.sweep.dir)
        notes = [note for note in sorted(folder.rglob(FAILED)) if note.stat().st_mtime >= self.begun - 1]
        if not notes:
            return
        print(f"\nruns that failed: {len(notes)}", file=sys.stderr)
        for note in notes:
            words, *reason = note.read_text().splitlines()
            print(f"  {note.parent.relative_to(folder)}  {words}\n     {' '.join(reason)}", file=sys.stderr)
        sys.exit(Exit.FAILED)


def make_folder(name: str, folder: str) -> None:
    """Make the folder that a setting names, or end the process saying why it cannot be made."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{name}={folder}: cannot be made ({error.strerror}); expected a folder to write in"
        sys.exit(report(UsageError(problem)))


def slurm_problem() -> str | None:
    """Why no job can be handed to SLURM from here; None if it can."""
    if shutil.which("srun") is None:
        return (
            "hydra/launcher=submitit_slurm: no command srun on this machine, which a SLURM cluster has; "
            "hydra/launcher=submitit_local runs the jobs here"
        )
    return None


def storage_problem(storage: object) -> str | None:
    """Why Optuna cannot continue the study kept at the URL ``storage``; None if it can, or keeps none."""
    if not isinstance(storage, str):
        return None
    import optuna

    try:
        optuna.storages.get_storage(storage)
    except Exception as error:  # of Optuna, of SQLAlchemy, or of a database's driver
        reason = first_line(error).replace("$STORAGE_URL", storage).rstrip(".")
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
