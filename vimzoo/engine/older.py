"""Settings of runs that an older version began: what they left unsaid then is said as it was meant."""

from __future__ import annotations

from typing import Any

FOLDERS = ("folder", "paired", "degraded_folder")
PICTURES = ("folder", "shards", "hub")
TIMMS_AUG = {"scale": [0.08, 1.0], "ratio": [0.75, 4 / 3], "hflip": 0.5, "color_jitter": 0.4}


def updated(cfg: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run with the meaning that they had when it began.

    Before `data.split` was a setting, random splits were drawn from the order of files. Before `data.upright` was one,
    pictures were read as they are stored, and what `aug.transform` did not name was done as timm does it by default.
    Before `data.split` and `data.rounded` were, the Charbonnier loss had an eps of 1e-12.
    """
    data, aug = cfg["data"], cfg["aug"]
    if cfg["loss"] == "charbonnier" and not {"split", "rounded"} & set(data):
        cfg = {**cfg, "loss": {"name": "charbonnier", "eps": 1e-12}}
    if data.get("source") in FOLDERS and "split" not in data:
        data = {**data, "split": "order"}
    if data.get("source") in PICTURES and "upright" not in data:
        data = {**data, "upright": False}
        aug = {**aug, "transform": TIMMS_AUG | (aug["transform"] or {})}
    return {**cfg, "data": data, "aug": aug}
