"""Folders for the browser: the ONNX file, a page and its scripts, and onnxruntime's build for the browser."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vimzoo.errors import UsageError
from vimzoo.models.weights.class_names import of_model

from ..check import options_of
from ..program import to_program
from ..record import Format, Run, Source
from .onnx import load_onnx, save_onnx

BUNDLES = {"wasm": "ort.wasm.bundle.min.mjs", "webgpu": "ort.webgpu.bundle.min.mjs"}
"""Name in the folder -> the module of onnxruntime-web. Not every server knows the type of ``.mjs`` files."""
PAGE = ("index.html", "page.js", "worker.js", "pictures.js", "tiles.js")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
"""What ``pictures.js`` can do; so it is with the modes of cropping."""
CROPS = ("center", "squash")
SMALL = 64
"""Pixels of a side of the image for that, of restoration models."""
CHECKED = 1000
"""Numbers of the output with which the page compares its own."""


def runtime_folder() -> Path:
    """The folder ``dist`` of the npm package onnxruntime-web, installed for the current folder as node finds packages.

    Raises:
        UsageError: it is not installed, or lacks a module.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        found = folder / "node_modules" / "onnxruntime-web" / "dist"
        if all((found / module).is_file() for module in BUNDLES.values()):
            return found
    raise UsageError(
        "--format web: needs onnxruntime-web 1.20 or newer; npm install onnxruntime-web, in this folder or above it"
    )


def check_images(shape: tuple[int, ...]) -> torch.Tensor:
    """Images that the page's script can make too, to the last bit."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count, dtype=torch.float64) * 7919 % 1009) / 1009).float().reshape(shape)


@torch.no_grad()
def page_facts(source: Source) -> dict[str, Any]:
    """What the page must know of a model, beside the metadata.

    Raises:
        UsageError: the page cannot prepare pictures for the model.
    """
    facts, model = dict(source.metadata), source.model
    if "inputs" in facts:
        raise UsageError(
            f"--format web: the model takes {', '.join(facts['inputs'])}; expected a classifier of pictures or a model "
            "of RGB to RGB"
        )
    channels, height, width = facts["input_size"]
    refused = ""
    if channels not in (1, 3) or (channels == 1 and facts.get("scale")):
        refused = f"the model takes {channels} channels"
    elif facts.get("scale"):
        if not source.dynamic_size:
            facts["sides"] = (height, width)
    elif facts["num_classes"]:
        names = of_model(SimpleNamespace(pretrained_cfg=facts, num_classes=facts["num_classes"]))
        defaults = {"interpolation": "bilinear", "crop_pct": 0.875, "crop_mode": "center"}
        facts = defaults | facts | {"names": names}
        if facts["interpolation"] not in INTERPOLATIONS or facts["crop_mode"] not in CROPS:
            refused = f"interpolation {facts['interpolation']}, crop_mode {facts['crop_mode']}"
    else:
        refused = "the model has neither classes nor a scale"
    if refused:
        raise UsageError(
            f"--format web: {refused}; expected a classifier of pictures or a model of RGB to RGB"
        )
    if facts.get("scale") and source.dynamic_size:
        height = width = SMALL
    shape = (1, channels, height, width)
    output = model(check_images(shape)).flatten()
    step = max(1, len(output) // CHECKED)
    facts["check"] = {
        "shape": shape,
        "step": step,
        "values": output[::step].tolist(),
        "spread": output.std().item(),
        "share": options_of(model).agreement,
    }
    return facts


def copy_runtime(folder: Path) -> None:
    """Copy what the page needs of onnxruntime-web."""
    package = runtime_folder()
    for name, module in BUNDLES.items():
        text = (package / module).read_text()
        (library,) = set(re.findall(r"ort-wasm[-.\w]*\.wasm", text))
        (folder / f"{name}.js").write_text(re.sub(r"\n//# sourceMappingURL=.*", "", text))
        shutil.copyfile(package / library, folder / f"{name}.wasm")
    shutil.copyfile(package.parent / "package.json", folder / "package.json")  # its version and licence


def _save(source: Source, path: Path) -> None:
    facts = page_facts(source)
    path.mkdir()
    (path / "ort").mkdir()
    copy_runtime(path / "ort")
    for name in PAGE:
        (path / name).write_bytes((resources.files("vimzoo.exporting.web") / name).read_bytes())
    (path / "model.json").write_text(json.dumps(facts))
    program = to_program(source.model, source.example, dynamic_size=source.dynamic_size)
    save_onnx(program, path / "model.onnx", source.metadata)


def load_web(path: Path) -> Run:
    """The folder's ONNX file, in onnxruntime."""
    return load_onnx(path / "model.onnx")


FORMAT = Format(
    name="web",
    suffix=".web",
    save=_save,
    load=load_web,
    runs_with="a browser: the folder holds a page that any web server can serve",
    operators="those of `onnx`",
    requires=("onnx", "onnxscript", "onnxruntime"),
    prepare=runtime_folder,
    folder=True,
)
