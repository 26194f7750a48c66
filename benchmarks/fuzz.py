"""Damaged and nonsensical input, in great numbers: ``python benchmarks/fuzz.py SUBJECT [--count N] [--seed S]``.

Each try ends in one of three ways: accepted, refused by an error that is meant for it, or something else, which is a
defect. ``--guided`` leaves the choice of bytes to atheris, which looks for new branches in the readers' Python code.
`reliability.py` runs this file in processes of their own and counts.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vimzoo.models.weights.reader import CheckpointError, read_checkpoint
from vimzoo.ops import CROSS, BackendError, add_norm, causal_conv1d, scan_paths, selective_scan
from vimzoo.restoration import PictureError, read_picture

Rng = np.random.Generator
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.complex64,
    torch.bool,
)


def damaged_tensor(x: Tensor, rng: Rng) -> Any:
    """``x`` with another size, rank, dtype, layout or content, or something that is no tensor."""
    axis = int(rng.integers(x.dim())) if x.dim() else 0
    ways: list[Callable[[], Any]] = [
        lambda: x.repeat_interleave(2, axis) if x.dim() else x,
        lambda: x.narrow(axis, 0, max(0, x.shape[axis] - 1)) if x.dim() else x,
        lambda: x.narrow(axis, 0, 0) if x.dim() else x,
        lambda: x.unsqueeze(0),
        lambda: x.flatten(),
        lambda: x.to(DTYPES[rng.integers(len(DTYPES))]),
        lambda: x.transpose(0, -1) if x.dim() else x,
        lambda: x[..., :1].expand(x.shape) if x.dim() else x,
        lambda: torch.where(torch.rand(x.shape) < 0.2, float("nan"), x),
        lambda: x * 1e30,
        lambda: None,
        lambda: x.to("meta"),
        lambda: float(x.sum()),
    ]
    return ways[rng.integers(len(ways))]()


def scan_paths_arguments() -> tuple[dict[str, Any], Callable[..., Any]]:
    tensors = dict(
        x=torch.randn(2, 6, 5), x_dbl=torch.randn(2, 6, 4, 8), A=-torch.rand(4, 5, 3), dt_weight=torch.randn(4, 5, 2),
        dt_bias=torch.randn(4, 5), D=torch.randn(4, 5), z=torch.randn(2, 6, 5),
    )  # fmt: skip
    return tensors, lambda **k: scan_paths(**k, paths=CROSS, grid=(2, 3))


def selective_scan_arguments() -> tuple[dict[str, Any], Callable[..., Any]]:
    tensors = dict(
        u=torch.randn(2, 4, 9), delta=torch.rand(2, 4, 9), A=-torch.rand(4, 3), B=torch.randn(2, 2, 3, 9),
        C=torch.randn(2, 2, 3, 9), D=torch.randn(4), z=torch.randn(2, 4, 9), delta_bias=torch.randn(4),
    )  # fmt: skip
    return tensors, lambda **k: selective_scan(**k, delta_softplus=True)


def causal_conv1d_arguments() -> tuple[dict[str, Any], Callable[..., Any]]:
    tensors = dict(x=torch.randn(2, 9, 4), weight=torch.randn(2, 4, 3), bias=torch.randn(2, 4))
    return tensors, lambda **k: causal_conv1d(**k, activation="silu", reverse=(False, True))


def add_norm_arguments() -> tuple[dict[str, Any], Callable[..., Any]]:
    tensors = dict(
        x=torch.randn(2, 3, 8), residual=torch.randn(2, 3, 8), weight=torch.randn(8), bias=torch.randn(8)
    )
    return tensors, add_norm


OPS = {
    "scan_paths": scan_paths_arguments,
    "selective_scan": selective_scan_arguments,
    "causal_conv1d": causal_conv1d_arguments,
    "add_norm": add_norm_arguments,
}
REFUSALS = {
    **dict.fromkeys(OPS, (ValueError, TypeError, BackendError)),
    "checkpoint": (CheckpointError,),
    "picture": (PictureError,),
}
"""Errors that are meant for bad input, by subject. TypeError: an argument is not a tensor."""


def try_op(name: str, rng: Rng) -> None:
    """One call with up to three damaged arguments."""
    arguments, function = OPS[name]()
    for key in rng.choice(list(arguments), int(rng.integers(1, 4))):
        if isinstance(arguments[key], Tensor) and not arguments[key].is_meta:
            arguments[key] = damaged_tensor(arguments[key], rng)
    function(**arguments)


def damaged_bytes(data: bytes, rng: Rng) -> bytes:
    """Bytes with some changed, cut off, left out, or doubled."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(len(changed) + 1)), int(rng.integers(1, 40))
        way = rng.integers(5)
        if way == 0:
            del changed[at:]
        elif way == 1:
            del changed[at : at + length]
        elif way == 2:
            changed[at:at] = changed[at : at + length]
        else:  # most often: the rest of the file stays where it was
            changed[at : at + length] = rng.bytes(min(length, len(changed) - at))
    return bytes(changed)


def checkpoint_files() -> Iterator[tuple[str, bytes]]:
    """Small weight files of every kind that is read."""
    import safetensors.torch

    weights = {"blocks.0.weight": torch.randn(3, 4), "head.bias": torch.zeros(2)}
    for zipped in (True, False):
        file = io.BytesIO()
        content = {"model": weights, "args": argparse.Namespace(lr=1.0), "epoch": 3}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        yield ".pth", file.getvalue()
    yield ".safetensors", safetensors.torch.save(weights)


def picture_files() -> Iterator[tuple[str, bytes]]:
    """Small pictures of every format and depth that is read."""
    import imagecodecs
    import tifffile
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for mode, form in (("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG"),
                       ("RGB", "TIFF"), ("RGBA", "WEBP")):  # fmt: skip
        file = io.BytesIO()
        image.convert(mode).save(file, form)
        yield "." + form.lower(), file.getvalue()
    deep = pixels.astype(np.uint16) * 257
    for array in (pixels, deep):
        yield ".jxl", imagecodecs.jpegxl_encode(array, lossless=True, usecontainer=True)
    yield ".avif", imagecodecs.avif_encode(deep // 64, bitspersample=10)
    yield ".png", imagecodecs.png_encode(deep)
    file = io.BytesIO()
    tifffile.imwrite(file, deep, photometric="rgb", extrasamples=["unassalpha"])
    yield ".tiff", file.getvalue()


READERS: dict[str, tuple[Callable[[], Iterator[tuple[str, bytes]]], Callable[[Path], Any]]] = {
    "checkpoint": (checkpoint_files, read_checkpoint),
    "picture": (picture_files, lambda path: read_picture(path, max_pixels=10_000_000)),
}
GUIDES = (
    "vimzoo.models.weights.reader", "vimzoo.pictures.reading", "vimzoo.pictures.formats.tiff", "vimzoo.pictures.exif",
    "vimzoo.pictures.through_pillow", "torch._weights_only_unpickler", "PIL.PngImagePlugin", "PIL.JpegImagePlugin",
    "PIL.TiffImagePlugin", "PIL.Image",
)  # fmt: skip
"""Modules whose branches guide atheris."""
SUBJECTS = (*OPS, *READERS)


def read_damaged(subject: str, folder: Path, data: bytes, suffix: str) -> None:
    """Read ``data`` from a file as what ``subject`` says."""
    path = folder / f"damaged{suffix}"
    path.write_bytes(data)
    READERS[subject][1](path)


def outcome(call: Callable[[], Any], refusals: tuple[type[Exception], ...]) -> str:
    """``accepted``, ``refused``, or the name and text of an error that was not meant for this."""
    try:
        call()
    except refusals:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
    return "accepted"


def count_outcomes(subject: str, count: int, seed: int) -> Counter[str]:
    """How ``count`` tries with ``subject`` ended."""
    rng, outcomes = np.random.default_rng(seed), Counter[str]()
    torch.manual_seed(seed)
    files = list(READERS[subject][0]()) if subject in READERS else []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            if subject in OPS:
                call: Callable[[], Any] = lambda: try_op(subject, rng)  # noqa: E731
            else:
                suffix, data = files[rng.integers(len(files))]
                data = damaged_bytes(data, rng)
                call = lambda d=data, s=suffix: read_damaged(subject, Path(folder), d, s)  # noqa: E731
            outcomes[outcome(call, REFUSALS[subject])] += 1
    return outcomes


def guided(subject: str, count: int, seed: int) -> None:
    """The same with atheris, which ends the process at the first error that is not meant for bad input."""
    import atheris

    files, folder = list(READERS[subject][0]()), tempfile.TemporaryDirectory()
    corpus = Path(folder.name) / "corpus"
    corpus.mkdir()
    for i, (_, data) in enumerate(files):
        (corpus / str(i)).write_bytes(bytes([i]) + data)

    def test_one_input(data: bytes) -> None:
        suffix = files[data[0] % len(files)][0] if data else files[0][0]
        try:
            read_damaged(subject, Path(folder.name), data[1:], suffix)
        except REFUSALS[subject]:
            pass

    for module in map(importlib.import_module, GUIDES):
        for found in list(vars(module).values()):
            if inspect.isfunction(found) and found.__module__ == module.__name__:
                atheris.instrument_func(found)
    options = [sys.argv[0], f"-runs={count}", f"-seed={seed + 1}", "-verbosity=0", "-print_final_stats=1"]
    atheris.Setup([*options, str(corpus)], test_one_input)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="with atheris; only checkpoint and picture")
    options = parser.parse_args()
    logging.disable()  # decoders tell of every damaged byte
    if options.guided:
        guided(options.subject, options.count, options.seed)
    else:
        print(json.dumps(count_outcomes(options.subject, options.count, options.seed)))
        sys.stdout.flush()
        os._exit(0)  # what a damaged file did to a library must not be able to spoil the answer


if __name__ == "__main__":
    main()
