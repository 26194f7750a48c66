"""Checks that a model's published weights are reachable before timm's download goes through its retries."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from typing import Any

import huggingface_hub
from timm.models import resolve_pretrained_cfg

from .._timm import check_cached_file
from .reader import CheckpointError

__all__ = ["require_weights"]

SECONDS = 3.0
"""Timeout for connecting to a server."""


class MissingWeightsError(CheckpointError):
    """A model's weights are not published, or not reachable.

    Attributes:
        reason: The message without its last part, which shows how to pass a file in Python.
    """

    def __init__(self, reason: str, file: str) -> None:
        super().__init__(f"{reason}; give a file instead: pretrained_cfg_overlay=dict(file={file!r})")
        self.reason = reason


def require_weights(variant: str, options: dict[str, Any]) -> None:
    """Check that the weights of a model are in the cache, or that their server can be reached.

    Args:
        variant: registered name.
        options: keyword arguments of ``timm.create_model``.

    Raises:
        MissingWeightsError: there are none, or they are not reachable; the message has their name and address.
    """
    cfg = resolve_pretrained_cfg(
        variant, options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay")
    )
    if cfg.file or cfg.state_dict or cfg.source:
        return
    if cfg.hf_hub_id and cfg.hf_hub_filename:
        name, where, address = cfg.hf_hub_filename, cfg.hf_hub_id, huggingface_hub.constants.ENDPOINT
        folder = options.get("cache_dir")
        cached = huggingface_hub.try_to_load_from_cache(where, name, cache_dir=folder) is not None
    elif isinstance(cfg.url, str):
        name, where, address = cfg.url.rpartition("/")[2], cfg.url, cfg.url
        cached = check_cached_file(cfg.url, check_hash=False)
    elif cfg.hf_hub_id:
        return
    else:
        raise MissingWeightsError(f"{variant}: no published weights of this model are known", "FILE")
    if not cached and (reason := unreachable(address)):
        raise MissingWeightsError(
            f"{variant}: its weights {name} ({where}) are not in the cache, and their server does not answer "
            f"({reason})",
            name,
        )


def unreachable(address: str) -> str | None:
    """Why the server of a URL does not accept a connection; None if it does, if there is a proxy, or for files."""
    if huggingface_hub.constants.HF_HUB_OFFLINE and address == huggingface_hub.constants.ENDPOINT:
        return "HF_HUB_OFFLINE is set"
    if urllib.request.getproxies():
        return None
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return None
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        return f"{parts.hostname}: {error}"
    return None
