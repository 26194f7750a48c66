"""The authors' functions and constructors have the recorded signatures: names, order and defaults."""

import inspect
import json

import pytest
import torch
from torch import nn

from tools import signatures
from tools.cards import compat as comparison
from vimzoo.compat import mambair, mambair_unet, vim, vmamba, vmamba_single_file

REPOSITORIES = tuple(comparison.recorded())


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_signature_is_the_recorded_one(repository: str) -> None:
    assert comparison.all_differences(repository) == {}


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_name_is_here_or_listed_as_absent(repository: str) -> None:
    found = list(comparison.entries(repository))
    assert len(found) > 10 and sum(ours is not None for *_, ours in found) > len(found) / 4
    assert {name for _, name, _, ours in found if ours is None} <= set(comparison.ABSENT)


def test_the_record_is_of_the_named_commits() -> None:
    commits = {name: found["commit"][:7] for name, found in comparison.recorded().items()}
    assert commits == {"Vim": "dd0358a", "VMamba": "2ed52ea", "MambaIR": "33d7b34", "mamba": "e9594ce"}
    assert signatures.RECORDED.read_text() == json.dumps(comparison.recorded(), indent=1) + "\n"


@pytest.mark.parametrize(
    ("ours", "named"),
    [
        (lambda self, b, a=1, norm=nn.LayerNorm: None, r"expected \['self', 'a', 'b', 'norm'\]"),
        (lambda self, a, b=2, norm=nn.LayerNorm: None, "b: expected the default 1, got 2"),
        (lambda self, a, b=1, norm=nn.Identity: None, "norm: expected the default"),
        (lambda self, a, b=1: None, "norm"),
        (lambda self, a, *, b=1, norm=nn.LayerNorm: None, "expected"),
    ],
)
def test_the_comparison_can_fail(ours, named: str) -> None:
    problems = comparison.differences("self, a, b=1, norm=nn.LayerNorm, **kwargs", ours, {})
    assert problems
    with pytest.raises(AssertionError, match=named):
        raise AssertionError("; ".join(problems))


def test_more_arguments_may_follow() -> None:
    assert comparison.differences("a, b=[1, 2]", lambda a, b=(1, 2), c=None, *, d=0: None, {}) == []
    assert comparison.differences("a", lambda a, b: None, {}) == ["more required arguments: ['b']"]


def test_a_module_is_recorded_without_running_it() -> None:
    text = """
import not_installed

class Layer(not_installed.Base):
    def __init__(self, dim: int, *, kind=("a", 1e-6), **kwargs) -> None:
        self.dim, self._private = dim, 0
        other.name = self.read = kind
    def forward(self, x: "Tensor"): ...
    def _hidden(self): self.late: int = 1

class Kernel(torch.autograd.Function): ...
@triton.jit
def kernel(x_ptr): ...
def scale(x, by=-1.0, *rest): ...
def _private(): ...
"""
    assert signatures.of_file(text) == {
        "Layer": {
            "methods": {"__init__": "self, dim, *, kind=('a', 1e-06), **kwargs", "forward": "self, x"},
            "attributes": ["dim", "late", "read"],
        },
        "scale": "x, by=-1.0, *rest",
    }


def test_attributes_that_a_module_lacks_are_seen() -> None:
    record = {"attributes": ["d_model", "no_such_part"], "methods": {"__init__": "", "forward": ""}}
    has, lacks = comparison.attributes("VisionMamba", vim.VisionMamba, record)
    assert has == ["d_model", "forward"] and lacks == ["no_such_part"]


@pytest.mark.parametrize("name", ["VSSM", "Backbone_VSSM", "VisionMambaDet", "MambaIR"])
def test_models_have_every_attribute_of_theirs(name: str) -> None:
    (record, ours) = next(
        (record, ours)
        for repository in REPOSITORIES
        for _, found, record, ours in comparison.entries(repository)
        if found == name
    )
    has, lacks = comparison.attributes(name, ours, record)
    assert lacks == [] and len(has) > 3


def test_vmambas_sixth_position_is_the_number_of_states() -> None:
    model = vmamba.VSSM(4, 3, 10, [1, 1, 1, 1], [16, 32, 64, 128], 1)
    assert vmamba.official_state_dict(model)["layers.0.blocks.0.op.A_logs"].shape == (128, 1)
    assert not model.stages[0].grad_checkpointing


def test_first_positions_of_the_registered_functions() -> None:
    """Their classification code has ``channel_first``, their single file ``pretrained``."""
    with torch.device("meta"):
        assert not vmamba.vmamba_tiny_s1l8(False).channel_first
        assert vmamba_single_file.vmamba_tiny_s1l8(False).channel_first
        assert not vmamba_single_file.vmamba_tiny_s1l8(False, False).channel_first
        block = vmamba_single_file.VSSBlock(16, 0.0, True)
    assert not block.channels_last
    with pytest.raises(TypeError, match="positional"):
        vmamba.vmamba_tiny_s1l8(True, True)


def test_mambairs_sixth_position_is_a_step_size() -> None:
    torch.manual_seed(0)
    scan = mambair.SS2D(32, 16, 3, 2.0, "auto", 0.01)
    assert scan.drop.p == 0.0
    steps = torch.nn.functional.softplus(scan.ssm.dt_bias)
    assert 0.01 <= steps.min() < steps.max() <= 0.1
    assert mambair.SS2D(32, 16, 3, 2.0, "auto", 0.01, 0.1, "random", 1.0, 1e-4, 0.5).drop.p == 0.5
    assert mambair_unet.CAB(60, 6).compress == 6 and mambair.CAB(60, True).form == "light"


def test_all_positions_of_vision_mamba() -> None:
    parameters = list(inspect.signature(vim.VisionMamba).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) == 33
    values = {p.name: p.default for p in positional}
    values.update(img_size=32, depth=2, embed_dim=16, num_classes=5, use_middle_cls_token=False)
    model = vim.VisionMamba(*values.values())
    assert model.cls_position == "head" and model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
