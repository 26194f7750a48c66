"""Settings of runs begun by older versions: defaults of that time are made explicit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

FOLDERS = ("folder", "paired", "degraded_folder")
PICTURES = ("folder", "shards", "hub")
ADDED = {"split", "upright", "rounded"}  # settings of data that runs before them do not have
TIMMS_AUG = {"scale": [0.08, 1.0], "ratio": [0.75, 4 / 3], "hflip": 0.5, "color_jitter": 0.4}


def updated(cfg: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the defaults of the version that began it.

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


def as_begun(cfg: dict[str, Any], begun: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    """The settings of a resumed run, with the defaults of the version that began it.

    So the command that began the run can be repeated: today ``data=folder`` means another split and
    ``loss=charbonnier`` another loss, but the run keeps its own.

    Args:
        cfg: what the command means today.
        begun: the settings of the run.
        named: settings that the command names explicitly; these are taken literally.
    """
    meant = updated(begun)
    if cfg["data"].get("source") != meant["data"].get("source"):
        return cfg
    then = updated({**cfg, "data": {key: value for key, value in cfg["data"].items() if key not in ADDED}})
    result = {**cfg, "data": dict(cfg["data"])}
    for group in ("loss", "aug") if meant["data"].get("upright") is False else ("loss",):
        if then[group] == meant[group]:
            result[group] = meant[group]
    for key in ADDED - {"rounded"}:
        if f"data.{key}" not in named and key in then["data"] and then["data"][key] == meant["data"].get(key):
            result["data"][key] = meant["data"][key]
    return result
