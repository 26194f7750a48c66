"""Muon and its kin: what is not a matrix is left to AdamW."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from vimzoo.engine.build import build_optimizer
from vimzoo.models import fallback_list

SMALL_V2 = dict(embed_dim=32, depths=[1], d_state=4, window=8, rank=6, num_tokens=10)
STACKED = {"A_log", "D", "dt_bias", "dt_proj", "x_proj"}


def by_muon(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    """Names of the parameters that Muon itself has updated."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p] for p, state in optimizer.state.items() if "momentum_buffer" in state}


def with_gradients(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vim", {}),
        ("test_vmamba", {"d_state": 4}),
        ("test_mambair", {}),
        ("mambairv2_light_x2", SMALL_V2),
    ],
)
def test_only_weights_of_layers_are_matrices(name: str, options: dict[str, object]) -> None:
    model = with_gradients(name, **options)
    optimizer = build_optimizer(model, opt="muon", lr=1e-3, weight_decay=0.0)
    optimizer.step()
    parts = dict(model.named_modules())
    updated = by_muon(model, optimizer)
    assert len(updated) > 3
    for parameter in updated:
        layer, _, last = parameter.rpartition(".")
        assert last == "weight" and isinstance(parts[layer], nn.Linear | nn.Conv2d)
        assert getattr(parts[layer], "groups", 1) == 1


def test_the_rule_is_needed() -> None:
    """Without it, timm's Muon takes parameters of four directions for matrices."""
    model = with_gradients("test_vmamba", d_state=4)
    optimizer = create_optimizer_v2(model, opt="muon", lr=1e-3)
    optimizer.step()
    assert STACKED & {name.rpartition(".")[2] for name in by_muon(model, optimizer)}


@pytest.mark.parametrize("opt", ["muon", "adamuon", "lookahead_muon"])
def test_parameters_of_the_scan_get_an_update_of_adamw(opt: str) -> None:
    """Of the first step it is the sign of the gradient, times the rate."""
    model = with_gradients("test_vmamba")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    build_optimizer(model, opt=opt, lr=1e-3, weight_decay=0.0).step()
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in STACKED:
            assert parameter.grad is not None
            expected = before[name] - 1e-3 * parameter.grad.sign()
            torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=1e-4)


def test_the_users_own_list_is_added() -> None:
    model = with_gradients("test_vim")
    optimizer = build_optimizer(model, opt="muon", lr=1e-3, fallback_list=["head.*"])
    optimizer.step()
    assert "blocks.0.mixer.in_proj.weight" in by_muon(model, optimizer)
    assert "head.weight" not in by_muon(model, optimizer)


def test_other_optimizers_have_their_usual_groups() -> None:
    """Else a run that was begun earlier would not resume."""
    model = with_gradients("test_vim")
    ours, timms = (make(model, opt="adamw", lr=1e-3) for make in (build_optimizer, create_optimizer_v2))
    assert [list(group) for group in ours.param_groups] == [list(group) for group in timms.param_groups]
    assert [len(g["params"]) for g in ours.param_groups] == [len(g["params"]) for g in timms.param_groups]


def test_any_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Embedding(4, 8))
    assert fallback_list(model) == ["1.weight", "3.weight"]
