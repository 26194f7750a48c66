"""The node for ComfyUI, loaded and called as ComfyUI does; the folder that hands it over."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch

from vimzoo.comfyui import AS_TRAINED, NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from vimzoo.restoration import Restorer

ROOT = Path(__file__).resolve().parents[2]
(NODE,) = NODE_CLASS_MAPPINGS.values()
SMALL_V2 = dict(embed_dim=16, depths=[1], num_heads=2, window=8, d_state=2, rank=4, num_tokens=6)


def descriptor(name: str, **options: Any) -> SimpleNamespace:
    """What "Load Upscale Model" hands on, in so far as a node sees it."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    return SimpleNamespace(model=model, device=torch.device("cpu"), scale=model.scale)


def defaults() -> dict[str, Any]:
    """The values with which ComfyUI shows a new node."""
    found = {}
    for name, (kind, *options) in NODE.INPUT_TYPES()["required"].items():
        if options:
            found[name] = options[0]["default"]
            assert not isinstance(kind, list) or found[name] in kind
    return found


def call(model: Any, image: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """As ComfyUI calls a node: by the name in ``FUNCTION``, all inputs by name, one result per type."""
    with torch.inference_mode():
        results = getattr(NODE(), NODE.FUNCTION)(upscale_model=model, image=image, **defaults() | inputs)
    assert isinstance(results, tuple) and len(results) == len(NODE.RETURN_TYPES) == 1
    return results[0]


def test_the_node_says_what_it_takes() -> None:
    assert NODE_CLASS_MAPPINGS.keys() == NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert NODE.RETURN_TYPES == ("IMAGE",) and NODE.CATEGORY
    inputs = NODE.INPUT_TYPES()["required"]
    assert inputs["upscale_model"] == ("UPSCALE_MODEL",) and inputs["image"] == ("IMAGE",)
    assert defaults()["routing"] == AS_TRAINED


@pytest.mark.parametrize("channels", (1, 3, 4))
def test_images_are_what_the_restorer_makes(channels: int) -> None:
    model, image = descriptor("test_mambair"), torch.rand(2, 20, 33, channels)
    got = call(model, image, tile=16, overlap=8)
    restore = Restorer(model.model, tile=16, overlap=8)
    want = np.stack([restore(pixels.numpy()) for pixels in image]).clip(0, 1)
    assert got.dtype == torch.float32 and got.shape == (2, 40, 66, channels)
    assert np.array_equal(got.numpy(), want)
    assert got.min() >= 0 and got.max() <= 1


def test_routes() -> None:
    model, image = descriptor("mambairv2_light_x2", **SMALL_V2), torch.rand(1, 16, 16, 3)
    first = call(model, image)
    assert torch.equal(call(model, image), first)
    assert not torch.equal(call(model, image, seed=1), first)
    certain = call(model, image, routing="argmax")
    assert torch.equal(call(model, image, routing="argmax", seed=1), certain)
    assert model.model.routing == "gumbel"  # other nodes use the same model


def test_what_does_not_fit_is_said() -> None:
    image = torch.rand(1, 16, 16, 3)
    other = SimpleNamespace(model=torch.nn.Identity(), device=torch.device("cpu"))
    with pytest.raises(ValueError, match="expected a MambaIR model, got Identity"):
        call(other, image)
    with pytest.raises(ValueError, match="routing argmax: MambaIR has no routes"):
        call(descriptor("test_mambair"), image, routing="argmax")


def test_progress_and_cancelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's modules are in ``sys.modules`` when a node runs."""
    seen: list[tuple[int, int]] = []

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int) -> None:
            assert total == self.total
            seen.append((value, total))

    class Cancelled(Exception):
        pass

    def stop() -> None:
        if stop_now:
            raise Cancelled

    stop_now = False
    management: Any = ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("cpu")
    management.throw_exception_if_processing_interrupted = stop
    utils: Any = ModuleType("comfy.utils")
    utils.ProgressBar = ProgressBar
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    model, image = descriptor("test_mambair"), torch.rand(2, 16, 16, 3)
    call(model, image)
    assert seen[-1][0] == seen[-1][1] and [value for value, _ in seen] == sorted(value for value, _ in seen)
    stop_now = True
    with pytest.raises(Cancelled):
        call(model, image)


def test_the_folder_is_a_custom_node(tmp_path: Path) -> None:
    """ComfyUI imports a folder of ``custom_nodes`` under its path; "Load Upscale Model" then asks spandrel."""
    spandrel = pytest.importorskip("spandrel", reason="needs the extra vimzoo[spandrel]")
    folder = tmp_path / "custom_nodes" / "vimzoo"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text((ROOT / "integrations/comfyui/__init__.py").read_text())
    name = str(folder).replace(".", "_x_")
    spec: Any = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    assert module.NODE_CLASS_MAPPINGS is NODE_CLASS_MAPPINGS
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS.values()) == {"Restore (MambaIR)"}
    state = timm.create_model("test_mambair").state_dict()
    loaded = spandrel.ModelLoader().load_from_state_dict(state).eval()
    image = torch.rand(1, 12, 12, 3)
    assert call(loaded, image).shape == (1, 24, 24, 3)
