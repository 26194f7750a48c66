"""Finished runs: finding one, its settings and its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from vimzoo.commands import trainer
from vimzoo.data import Splits
from vimzoo.errors import UsageError

from .checkpoints import checkpoint
from .configuration.older import updated
from .configuration.words import applied, readable
from .create import resized, without_start
from .tasks import find_task


def newest_run(folder: Path = Path("outputs")) -> Path:
    """The run folder below ``folder`` that finished last.

    Raises:
        UsageError: there is no finished run.
    """
    runs = [path.parent for path in folder.glob("*/*/metrics.json")]
    if not runs:
        raise UsageError(f"no finished run under {folder}/; name a run folder, or train one: {trainer()}")
    return max(runs, key=lambda run: (run / "metrics.json").stat().st_mtime)


def run_settings(run: Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a run folder, with command-line overrides applied as in training.

    Raises:
        UsageError: it is not a run folder; see also `applied`.
    """
    try:
        cfg = yaml.safe_load((run / "config.yaml").read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{run}: not a run folder, it has no config.yaml") from error
    return applied(updated(cfg), [readable(word) for word in words])


def best_model(run: Path, cfg: dict[str, Any], data: Splits) -> nn.Module:
    """The model of a run with the weights of ``best.pt``, on the CPU, in evaluation mode.

    Weights are resized if the data have another image size than the run.
    """
    content = checkpoint.read(run / checkpoint.BEST)
    model = find_task(cfg["task"]).build_model(without_start(cfg), data)
    weights = resized(cfg["model"]["model_name"], model, content.get("model_ema", content["model"]))
    checkpoint.load_weights(model, weights, run / checkpoint.BEST)
    return model.eval()
