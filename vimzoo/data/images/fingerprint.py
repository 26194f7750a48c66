"""A fingerprint of a data set, to compare copies on different machines without reading all of it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ..pairs.stored import opened
from ..splits import Splits
from .decode import DAMAGED

SAMPLED = 16  # images of each part whose contents are compared


def fingerprint(data: Splits) -> dict[str, str]:
    """Counts of images, class names, and digests of the names, labels and a sample of the contents of each part.

    Two data sets with the same fingerprint hold the same number of images under the same names in the same order. Of
    their contents only those of `SAMPLED` images of each part, spread evenly over it, are compared.
    """
    found = {"classes": ", ".join(data.classes), "image size": "x".join(map(str, data.input_size))}
    for name, part in (("training", data.train), ("validation", data.val), ("test", data.test)):
        if part is None:
            continue
        found[f"{name} images"] = str(len(part))
        names = data.members.get({"training": "train", "validation": "val"}.get(name, name))
        labels = data.labels if name == "training" else None
        found[f"names of {name} images"] = _digest(*(a.tobytes() for a in (names, labels) if a is not None))
        images = getattr(part, "images", part)
        digest = getattr(getattr(images, "reader", None), "digest", bytes)
        found[f"contents of {name} images"] = _digest(digest(), *_sampled(images))
    return found


def _sampled(images: Any) -> list[bytes]:
    """Files of evenly spread images, or the images themselves where they are no files."""
    pairs = getattr(images, "pairs", None)
    count = len(images if pairs is None else pairs)
    places = np.unique(np.linspace(0, count - 1, min(SAMPLED, count)).round().astype(int)).tolist()
    if pairs is not None:
        return [_read(path) for place in places for path in pairs.files(place)]
    if reader := getattr(images, "reader", None):
        images.ahead(places)
        return [_stored(reader, index) for index in images.indices[places].tolist()]
    tensors = getattr(images, "tensors", None)  # a data set in memory
    return [] if tensors is None else [torch.stack([tensors[0][i] for i in places]).numpy().tobytes()]


def _read(path: Any) -> bytes:
    with opened(path) as file:
        return file.read()


def _stored(reader: Any, index: int) -> bytes:
    """A reader's file; nothing of one that cannot be read, which training replaces and counts."""
    try:
        with reader[index][0] as file:
            return file.read()
    except DAMAGED:
        return b""


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(
        b"".join(hashlib.blake2b(part).digest() for part in parts), digest_size=8
    ).hexdigest()
