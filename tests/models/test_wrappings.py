"""Weights under whatever keys and prefixes a training script has left them."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from model_cases import MODELS, built
from torch import nn
from torch.optim.swa_utils import AveragedModel

import vimzoo
from vimzoo.compat import mambair
from vimzoo.compat.official import official_state_dict
from vimzoo.convert import convert
from vimzoo.models import MambaIRv2, Vim
from vimzoo.models.weights.dialect import Slot
from vimzoo.models.weights.loading import CheckpointError
from vimzoo.ops import ScanPath

OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("test_vim").eval()


def named(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def equal(model: nn.Module, other: nn.Module) -> bool:
    want = other.state_dict()
    return all(torch.equal(tensor, want[name]) for name, tensor in model.state_dict().items())


WRAPPINGS: dict[str, Any] = {
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": OPTIMIZER, "loss": torch.tensor(1.0)},
    "model_state": lambda s: {"model_state": s, "optimizer_state": OPTIMIZER},
    "net": lambda s: {"net": s, "epoch": 3, "acc": 0.5},
    "weights": lambda s: {"weights": s},
    "module": lambda s: {"module": s},
    "an unknown key": lambda s: {"backbone_of_mine": s, "optimizer": OPTIMIZER, "step": torch.tensor(7)},
    "two keys": lambda s: {"state": {"model": s}},
    "Lightning": lambda s: {
        "state_dict": named(s, "model."), "pytorch-lightning_version": "2.5", "optimizer_states": [OPTIMIZER],
        "hparams_name": "kwargs", "loops": {"fit_loop": {"state_dict": {}}},
    },
    "Lightning, compiled": lambda s: {"state_dict": named(s, "model._orig_mod.")},
    "two prefixes": lambda s: named(s, "net.backbone."),
    "mmengine": lambda s: {"meta": {"epoch": 1}, "state_dict": named(s, "backbone.")},
    "transformers": lambda s: named(s, "timm_model."),
    "an average": lambda s: {"model_ema": named(s, "module."), "epoch": 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_a_prefix_or_key_that_holds_everything_is_removed(
    kind: str, trained: nn.Module, tmp_path: Path
) -> None:
    path = saved(tmp_path / "w.pth", WRAPPINGS[kind](trained.state_dict()))
    model = timm.create_model("test_vim")
    vimzoo.load_checkpoint(model, path)
    assert equal(model, trained)
    overlay = dict(file=str(path))
    assert equal(timm.create_model("test_vim", pretrained=True, pretrained_cfg_overlay=overlay), trained)


@pytest.mark.parametrize("kind", ["Lightning", "two prefixes", "an unknown key"])
def test_a_state_dict_in_memory_is_unwrapped_too(kind: str, trained: nn.Module) -> None:
    overlay = dict(state_dict=WRAPPINGS[kind](trained.state_dict()))
    assert equal(timm.create_model("test_vim", pretrained=True, pretrained_cfg_overlay=overlay), trained)


@pytest.mark.parametrize(
    ("content", "prefixes"),
    [
        (lambda s: {"state_dict": {**named(s, "model."), "criterion.weight": torch.ones(3)}}, ["model."]),
        (lambda s: {"state_dict": {**named(s, "backbone."), "decode_head.weight": torch.ones(3)}}, ["backbone."]),
        (lambda s: {**named(s, "a.student."), **named(s, "a.teacher.")}, ["a.student.", "a.teacher."]),
        (lambda s: {"student": s, "teacher": dict(s)}, ["student.", "teacher."]),
    ],
)  # fmt: skip
def test_a_part_of_a_file_is_named_and_loads_by_its_prefix(
    content: Any, prefixes: list[str], trained: nn.Module, tmp_path: Path
) -> None:
    path = saved(tmp_path / "w.pth", content(trained.state_dict()))
    model = timm.create_model("test_vim")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="prefix=") as caught:
        vimzoo.load_checkpoint(model, path)
    assert all(repr(prefix) in str(caught.value) for prefix in prefixes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for prefix in prefixes:
        model = timm.create_model("test_vim")
        vimzoo.load_checkpoint(model, path, prefix=prefix)
        assert equal(model, trained)


def test_a_prefix_that_no_name_has_is_an_error_that_lists_some(trained: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", trained.state_dict())
    with pytest.raises(
        CheckpointError, match=r"'encoder\.'; they begin with cls_token, pos_embed, patch_embed"
    ):
        vimzoo.load_checkpoint(timm.create_model("test_vim"), path, prefix="encoder.")


def test_torchs_average_of_a_model(trained: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", AveragedModel(trained).state_dict())
    model = timm.create_model("test_vim")
    vimzoo.load_checkpoint(model, path)
    assert equal(model, trained)


def test_the_authors_names_under_a_prefix(trained: nn.Module, tmp_path: Path) -> None:
    official = official_state_dict(trained)
    path = saved(tmp_path / "w.pth", {"state_dict": named(official, "model.")})
    model = timm.create_model("test_vim")
    vimzoo.load_checkpoint(model, path)
    assert equal(model, trained)


@pytest.mark.parametrize("name", ["mambair", "unet", "v2_light"])
def test_restoration_networks_are_recognised_in_any_wrapping(name: str, tmp_path: Path) -> None:
    model = MODELS[name][0]()
    state = model.state_dict()
    for content in ({"state_dict": named(state, "model.")}, {"net_g": state}, {"model_state_dict": state}):
        assert equal(vimzoo.load_restoration(saved(tmp_path / "w.pth", content)), model)
    path = saved(tmp_path / "w.pth", {**named(state, "net_g."), "net_d.conv.weight": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match=r"pass prefix='net_g\.' to vimzoo\.load_restoration"):
        vimzoo.load_restoration(path)
    assert equal(vimzoo.load_restoration(path, prefix="net_g."), model)


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 70000.0), (torch.float16, -1e9), (torch.bfloat16, 3.4e38)]
)
def test_numbers_that_the_models_dtype_cannot_hold_are_refused(
    dtype: torch.dtype, value: float, trained: nn.Module, tmp_path: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    state["head.bias"][3] = value
    model = timm.create_model("test_vim").to(dtype)
    with pytest.raises(CheckpointError, match=r"1 with larger numbers than .* \(head\.bias"):
        vimzoo.load_checkpoint(model, saved(tmp_path / "w.pth", state))
    state["head.bias"][3] = float("-inf")  # infinite as it was
    vimzoo.load_checkpoint(model, saved(tmp_path / "w.pth", state))
    assert model.head.bias[3] == float("-inf")


def test_a_counter_is_not_cut_from_a_fraction(tmp_path: Path) -> None:
    options = dict(depths=(1,), dims=(8,), norm="batch", num_classes=2)
    model = timm.create_model("test_vmamba", **options)
    state = dict(model.state_dict())
    name = next(name for name in state if name.endswith("num_batches_tracked"))
    state[name] = torch.tensor(2.5)
    with pytest.raises(CheckpointError, match=r"num_batches_tracked: got torch\.float32, expected"):
        vimzoo.load_checkpoint(model, saved(tmp_path / "w.pth", state))


def test_convert_and_fitting_loads_unwrap_as_well(tmp_path: Path) -> None:
    model = timm.create_model(
        "test_mambair", depths=(1,)
    )  # not the registered network, so its options are read off
    path = saved(tmp_path / "w.pth", {"state_dict": named(model.state_dict(), "model.")})
    folder = convert(path, "test_mambair", tmp_path / "folder")
    assert equal(timm.create_model(f"local-dir:{folder}", pretrained=True), model)
    other = timm.create_model("test_mambair", depths=(1,))
    assert other.load_fitting(path) == ([], [])
    assert equal(other, model)


def test_sizes_may_be_numpys_integers() -> None:
    """As a search over hyper-parameters draws them."""
    assert Vim(np.int64(96), embed_dim=np.int64(8), depth=1).pos_embed.shape[1] == 37
    assert timm.create_model("test_vmamba", dims=np.int64(8)).num_features == 64
    assert (
        MambaIRv2(3, 8, (1,), np.int64(2), 4, 2, num_tokens=4, rank=2).groups[0].blocks[0].attn.num_heads == 2
    )
    authors = mambair.MambaIRv2(
        np.int64(16), 1, embed_dim=8, depths=(1,), num_heads=(2,), window_size=8, ape=True
    )
    assert authors.pos_embed.shape[1] == 256
    assert ScanPath.window(np.int64(2)) == ScanPath.window(2)
    with pytest.raises(ValueError, match=r"img_size: expected a positive number, or two, got 64\.5"):
        Vim(64.5, embed_dim=8, depth=1)


@pytest.mark.parametrize("family", ["mambair", "vmamba"])
def test_an_authors_tensor_of_as_many_numbers_in_another_shape_is_refused(
    family: str, tmp_path: Path
) -> None:
    """Equal counts hide swapped axes; only directions and channels may be in one axis or in two."""
    model = built(family)[0]
    state = official_state_dict(model)
    name = next(n for n, t in state.items() if t.dim() == 4 and t.shape[0] != t.shape[1])
    for first, refused in ((state[name], False), (state[name].transpose(0, 1).contiguous(), True)):
        path = tmp_path / "weights.pth"
        torch.save({"params": state | {name: first}}, path)
        with pytest.raises(CheckpointError, match="shape") if refused else contextlib.nullcontext():
            vimzoo.load_checkpoint(model, path)


def test_directions_and_channels_may_be_in_one_axis_or_in_two() -> None:
    flat = Slot("a", "b", (8, 3), stored=(4, 2, 3))
    assert all(flat.fits(torch.empty(shape)) for shape in ((8, 3), (4, 2, 3), (8, 3, 1, 1)))
    assert not any(flat.fits(torch.empty(shape)) for shape in ((2, 4, 3), (8, 1, 3), (24,), (4, 6)))
    apart = Slot("a", "b", (4, 2, 3), stored=(4, 2, 3))
    assert apart.fits(torch.empty(8, 3)) and not apart.fits(torch.empty(2, 4, 3))
