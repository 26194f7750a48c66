"""Settings of runs that an older version began: what they left unsaid then is said as it was meant."""

from __future__ import annotations

from typing import Any

FOLDERS = ("folder", "paired", "degraded_folder")


def updated(cfg: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run with the meaning that they had when it began.

    Before `data.split` was a setting, random splits were drawn from the order of files.
    """
    data = cfg["data"]
    if data.get("source") not in FOLDERS or "split" in data:
        return cfg
    return {**cfg, "data": {**data, "split": "order"}}
