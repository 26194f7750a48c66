"""Finished runs: which one is meant, its settings, its model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..data import Splits, UsageError
from . import checkpoint
from .cli import config_dir, version_base
from .create import resized
from .older import updated
from .tasks import find_task


def newest_run(folder: Path = Path("outputs")) -> Path:
    """The run folder below ``folder`` that was finished last.

    Raises:
        UsageError: there is none.
    """
    runs = [path.parent for path in folder.glob("*/*/metrics.json")]
    if not runs:
        raise UsageError(f"no finished run under {folder}/; name a run folder, or train one: python train.py")
    return max(runs, key=lambda run: (run / "metrics.json").stat().st_mtime)


def run_settings(run: Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a run folder, with ``key.key=value`` words applied.

    Raises:
        UsageError: no run folder, or an unknown key.
    """
    try:
        cfg = yaml.safe_load((run / "config.yaml").read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{run}: not a run folder, it has no config.yaml") from error
    cfg = updated(cfg)
    for word in words:
        name, equals, value = word.partition("=")
        *path, last = name.split(".")
        place: Any = cfg
        for key in path:
            place = place.get(key) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or last not in place:
            near = difflib.get_close_matches(last, place if isinstance(place, dict) else cfg, 3)
            raise UsageError(
                f"{word}: no such setting in {run / 'config.yaml'}; near it: {', '.join(near) or '-'}"
            )
        place[last] = yaml.safe_load(value)
    return cfg


def composed_settings(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that ``python train.py WORDS`` would use.

    Raises:
        UsageError: Hydra refuses a word.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(**version_base(), config_dir=str(config_dir())):
            return OmegaConf.to_container(compose("train", overrides=list(words)), resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(str(error).splitlines()[0]) from error


def best_model(run: Path, cfg: dict[str, Any], data: Splits) -> nn.Module:
    """The model of a run with the weights of ``best.pt``, on the CPU, in evaluation mode.

    Where the data have another image size than the run, weights are resized to it as timm does.
    """
    content = checkpoint.read(run / checkpoint.BEST)
    # The weights come from the run itself; what it started from may be gone
    without_start = {**cfg, "model": {**cfg["model"], "pretrained": False}}
    without_start["model"].pop("start", None)
    model = find_task(cfg["task"]).build_model(without_start, data)
    weights = resized(cfg["model"]["model_name"], model, content.get("model_ema", content["model"]))
    checkpoint.load_weights(model, weights, run / checkpoint.BEST)
    return model.eval()
