"""spandrel finds and loads our restoration networks, from files in any form, and leaves others alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mambair_builds import BUILDS, as_saved, image_for, small

import vimzoo
import vimzoo.spandrel
from vimzoo.compat import mambair
from vimzoo.errors import UsageError
from vimzoo.models import MambaIR, MambaIRUNet, MambaIRv2
from vimzoo.models.inferred import find_network

spandrel = pytest.importorskip("spandrel", reason="needs the extra vimzoo[spandrel]")


@pytest.fixture
def loader() -> Any:
    """A loader of a registry of its own, with spandrel's architectures and ours."""
    registry = spandrel.MAIN_REGISTRY.copy()
    vimzoo.spandrel.install(registry, routing="argmax")
    return spandrel.ModelLoader(registry=registry)


@pytest.mark.parametrize("form", ("params", "params_ema", "ours", "safetensors"))
@pytest.mark.parametrize("kind", BUILDS)
@torch.no_grad()
def test_files_load_as_without_spandrel(kind: str, form: str, loader: Any, tmp_path: Path) -> None:
    model = small(kind)
    suffix = "safetensors" if form == "safetensors" else "pth"
    found = loader.load_from_file(as_saved(model, form, tmp_path / f"model.{suffix}"))
    assert isinstance(found, spandrel.ImageModelDescriptor) and not found.model.training
    if isinstance(model, MambaIRv2):
        model.routing = "argmax"
    x = image_for(model)
    assert torch.equal(found(x), model(x).clamp(0, 1))
    assert found.architecture.id == f"vimzoo.{type(found.model).__name__}"
    assert found.purpose == ("Restoration" if model.scale == 1 else "SR")
    assert (found.scale, found.input_channels, found.output_channels) == (
        model.scale,
        model.in_chans,
        model.in_chans,
    )
    assert found.tags[0] == "32dim" and found.tags[1].endswith("M")
    assert found.supports_half and found.supports_bfloat16
    assert found.tiling is spandrel.ModelTiling.SUPPORTED


@pytest.mark.parametrize("kind", ("light_x3", "v2_light_x4", "unet", "grey"))
@torch.no_grad()
def test_any_size_and_precision(kind: str, loader: Any) -> None:
    """spandrel pads what the U-Net does not take, and cuts the result."""
    found = loader.load_from_state_dict(mambair.official_state_dict(small(kind)))
    x = image_for(found.model, 9, 21)
    want = found(x)
    assert want.shape == (1, found.output_channels, 9 * found.scale, 21 * found.scale)
    assert found.size_requirements.multiple_of == (8 if kind == "unet" else 1)
    for dtype in (torch.bfloat16, torch.float16):
        got = loader.load_from_state_dict(mambair.official_state_dict(small(kind))).to(dtype)(x.to(dtype))
        assert got.dtype == dtype and got.isfinite().all()
        if kind != "v2_light_x4":  # a route may change
            assert (got.float() - want).abs().mean() < 0.05 * want.std()


@pytest.mark.parametrize("kind", BUILDS)
def test_no_other_architecture_claims_our_files(kind: str) -> None:
    """Ours come last in spandrel's order of detection."""
    model = small(kind)
    for state in (model.state_dict(), mambair.official_state_dict(model)):
        theirs = [
            entry for entry in spandrel.MAIN_REGISTRY if not entry.architecture.id.startswith("vimzoo.")
        ]
        assert [entry.architecture.id for entry in theirs if entry.detect(dict(state))] == []


def test_installing_again_changes_the_settings() -> None:
    registry = spandrel.ArchRegistry()
    first = vimzoo.spandrel.install(registry, routing="argmax")
    assert [e.architecture.id for e in first] == ["vimzoo.MambaIR", "vimzoo.MambaIRv2", "vimzoo.MambaIRUNet"]
    state, loader = small("v2_x2").state_dict(), spandrel.ModelLoader(registry=registry)
    assert loader.load_from_state_dict(state).tags[-1] == "argmax"
    assert vimzoo.spandrel.install(registry) == first and len(registry) == 3
    assert loader.load_from_state_dict(state).tags[-1] == "gumbel"
    with pytest.raises(ValueError, match="routing: expected one of 'gumbel', 'argmax', got 'best'"):
        vimzoo.spandrel.install(registry, routing="best")


@torch.no_grad()
def test_random_routes_are_the_same_in_every_call(loader: Any) -> None:
    """ComfyUI keeps results of equal inputs, and tiles of one picture must fit together."""
    state, x = small("v2_x2").state_dict(), torch.rand(1, 3, 24, 24)
    vimzoo.spandrel.install(loader.registry, seed=1)
    first, second = loader.load_from_state_dict(state), loader.load_from_state_dict(state)
    assert torch.equal(first(x), first(x)) and torch.equal(first(x), second(x))
    vimzoo.spandrel.install(loader.registry, seed=2)
    assert not torch.equal(loader.load_from_state_dict(state)(x), first(x))


def test_spandrel_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(UsageError, match=r"pip install 'vimzoo\[spandrel\]'"):
        vimzoo.spandrel.install()


def foreign() -> dict[str, dict[Any, Any]]:
    """State dicts that are none of ours, some of which look like one."""
    large = {
        f"model.blocks.{i}.layers.{j}.attn.{part}.weight": torch.zeros(1)
        for i in range(30)
        for j in range(30)
        for part in ("q", "k", "v")
    }
    ours = mambair.official_state_dict(small("v2_x2"))
    return {
        "empty": {},
        "large": large,
        "other kinds of names": {1: torch.zeros(1), None: 3, "x": "y"},
        "no tensors": {"layers.0.residual_group.layers.0.assm.x": 1, "conv_first.weight": "?"},
        "a name alone": {"layers.0.residual_group.blocks.0.self_attention.A_logs": torch.zeros(3, 2)},
        "part of ours": {name: x for name, x in ours.items() if "relative_position_bias_table" not in name},
        "scalars": {name: torch.zeros(()) for name in ours},
        "empty tensors": {name: torch.zeros(0, 0, 0) for name in ours},
    }


@pytest.mark.parametrize("what", foreign())
def test_foreign_files_are_left_alone(what: str, loader: Any) -> None:
    assert find_network(foreign()[what]) is None
    if all(isinstance(name, str) for name in foreign()[what]):
        with pytest.raises(spandrel.UnsupportedModelError):
            loader.load_from_state_dict(foreign()[what])


def test_detection_takes_milliseconds() -> None:
    """Of 2700 tensors under 900 prefixes; reading hints off every prefix would take seconds."""
    state = foreign()["large"]
    times = []
    for _ in range(5):
        start = time.process_time()
        find_network(state)
        times.append(time.process_time() - start)
    assert min(times) < 0.1


@pytest.mark.parametrize(
    ("kind", "network"), (("sr_x2", MambaIR), ("v2_dn", MambaIRv2), ("unet", MambaIRUNet))
)
def test_a_shared_prefix_is_ignored(kind: str, network: type) -> None:
    state = {f"net.inner.{name}": x for name, x in small(kind).state_dict().items()}
    assert find_network(state) is network
    assert isinstance(vimzoo.restoration_from_tensors(state), network)
