"""The VMamba authors' constructors, keys and files."""

import sys
import types
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo.compat import vmamba
from vimzoo.models.vmamba import VMAMBA_FACTS, checkpoint_filter_fn

SMALL = dict(depths=[1, 2], dims=16, num_classes=5, ssm_d_state=2, forward_type="v05_noz", norm_layer="ln2d")
VARIANTS = [
    {},
    {"forward_type": "v0", "norm_layer": "ln"},
    {"forward_type": "v2"},  # their default, which fails in their code
    {"forward_type": "v052dc_noz", "norm_layer": "ln"},
    {"forward_type": "v05_oncnorm_nozact_oact_no32"},
    {"forward_type": "v05_ondwconv3_noz"},
    {"forward_type": "m0_noz", "norm_layer": "ln", "ssm_dt_rank": 4, "ssm_init": "v2"},
    {"forward_type": "m0", "norm_layer": "ln2d", "ssm_dt_rank": 2, "ssm_init": "v1"},
    {"norm_layer": "BN", "downsample_version": "v1", "patchembed_version": "v2"},
    {"downsample_version": "v3", "gmlp": True, "posembed": True, "imgsize": 32},
    {"ssm_ratio": 0.0},
]


def small(**options) -> vmamba.VSSM:
    return vmamba.VSSM(**{**SMALL, **options})


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("spelling", [None, "single_file"])
def test_state_goes_out_and_in_under_the_authors_names(options: dict, spelling: str | None) -> None:
    source, target = small(**options).eval(), small(**options).eval()
    state = vmamba.official_state_dict(source, spelling)
    assert not any(".ssm." in name or name.startswith(("stages.", "norm.")) for name in state)
    assert not target.load_state_dict(state).missing_keys
    assert set(vmamba.official_state_dict(target)) == set(state)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=0)
    assert target.load_state_dict(source.state_dict())  # our own names are taken as well


def test_missing_and_unexpected_keys_are_the_authors() -> None:
    model = small()
    state = vmamba.official_state_dict(model)
    del state["layers.1.blocks.0.op.A_logs"], state["classifier.norm.bias"]
    state["layers.0.blocks.0.op.extra"] = torch.zeros(1)
    state["layers.0.blocks.0.op.Ds"] = torch.zeros(12)
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict(state)
    words = str(raised.value)
    assert "size mismatch for layers.0.blocks.0.op.Ds" in words
    for name in ("layers.1.blocks.0.op.A_logs", "classifier.norm.bias", "layers.0.blocks.0.op.extra"):
        assert f'"{name}"' in words
    assert "ssm" not in words


def test_keys_inside_a_larger_network() -> None:
    network = nn.ModuleDict({"backbone": small(), "neck": nn.Linear(2, 2)})
    state = {
        f"backbone.{name}": value for name, value in vmamba.official_state_dict(network["backbone"]).items()
    }
    state.update({f"neck.{name}": value for name, value in network["neck"].state_dict().items()})
    assert not network.load_state_dict(state).unexpected_keys


@pytest.mark.parametrize("channel_first", [False, True])
def test_layers_alone(channel_first: bool) -> None:
    x = torch.randn(2, 6, 4, 16)
    given = x.permute(0, 3, 1, 2) if channel_first else x
    op = vmamba.SS2D(
        d_model=16, d_state=2, ssm_ratio=1.0, forward_type="v05_noz", channel_first=channel_first
    )
    assert op(given).shape == given.shape and op.d_inner == 16 and op.dt_rank == 1 and op.k_group == 4
    assert set(vmamba.official_state_dict(op)) == {
        "in_proj.weight", "conv2d.weight", "conv2d.bias", "x_proj_weight", "dt_projs_weight", "dt_projs_bias",
        "A_logs", "Ds", "out_norm.weight", "out_norm.bias", "out_proj.weight",
    }  # fmt: skip
    other = vmamba.SS2D(d_model=16, d_state=2, ssm_ratio=1.0, forward_type="v05_noz")
    other.load_state_dict(vmamba.official_state_dict(op))
    got = op(given).permute(0, 2, 3, 1) if channel_first else op(given)
    torch.testing.assert_close(got, other(x))
    norm = type("LayerNorm2d", (nn.LayerNorm,), {}) if channel_first else nn.LayerNorm
    block = vmamba.VSSBlock(
        hidden_dim=16, drop_path=0.1, norm_layer=norm, channel_first=channel_first, ssm_act_layer=nn.GELU,
        mlp_act_layer=nn.SiLU, use_checkpoint=True,
    )  # fmt: skip
    block(given).sum().backward()
    again = vmamba.VSSBlock(hidden_dim=16, ssm_act_layer=nn.GELU, mlp_act_layer=nn.SiLU).eval()
    again.load_state_dict(vmamba.official_state_dict(block))
    got = block.eval()(given)
    torch.testing.assert_close(got.permute(0, 2, 3, 1) if channel_first else got, again(x))
    assert block.op is block.ss2d


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"forward_type": "v9"}, "forward_type"),
        (
            {"forward_type": "v05_oact_noz"},
            "forward_type",
        ),  # postfixes in another order are not theirs either
        ({"forward_type": "xv1a"}, "forward_type"),
        ({"ssm_init": "v3"}, "ssm_init"),
        ({"ssm_act_layer": "tanh"}, "act"),
        ({"norm_layer": "gn"}, "norm_layer"),
        ({"downsample_version": "none"}, "downsample_version"),
        ({"patchembed_version": "v3"}, "patchembed_version"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        small(**options)


def test_unknown_arguments_are_refused() -> None:
    for build in (vmamba.VSSM, vmamba.Backbone_VSSM, vmamba.SS2D, vmamba.VSSBlock):
        with pytest.raises(TypeError, match="not_an_option"):
            build(not_an_option=1)


def test_backbone_starts_from_a_classifier_file_or_says_why_not(tmp_path: Path) -> None:
    classifier = small().eval()
    path = tmp_path / "classifier.pth"
    torch.save({"model": vmamba.official_state_dict(classifier)}, path)
    options = {key: value for key, value in SMALL.items() if key != "num_classes"}
    backbone = vmamba.Backbone_VSSM(out_indices=(1,), pretrained=path, **options).eval()
    x = torch.randn(1, 3, 32, 48)
    raw = classifier.forward_intermediates(x, intermediates_only=True)[1]
    (got,) = backbone(x)
    torch.testing.assert_close(got, backbone.outnorms["1"](raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    detector = {f"backbone.{name}": value for name, value in vmamba.official_state_dict(backbone).items()}
    assert "backbone.outnorm1.weight" in detector
    torch.save(
        {"meta": {}, "state_dict": {**detector, "neck.weight": torch.zeros(1)}}, tmp_path / "detector.pth"
    )
    again = vmamba.Backbone_VSSM(out_indices=(1,), **options).eval()
    again.load_pretrained(tmp_path / "detector.pth", prefix="backbone.")
    torch.testing.assert_close(again(x)[0], got)
    with pytest.raises(vimzoo.CheckpointError, match=r"classifier\.pth"):
        vmamba.Backbone_VSSM(out_indices=(1,), pretrained=path, **{**options, "dims": 24})


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict:
    node = type(
        "CfgNode", (dict,), {"__module__": "yacs.config", "__doc__": "Pickles as the authors' settings do."}
    )
    module = types.ModuleType("yacs.config")
    module.CfgNode = node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = node(MODEL=node(TYPE="vssm"))
    config.__dict__["__immutable__"] = True
    return config


@pytest.fixture
def file(tmp_path: Path, config: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training checkpoint of test_vmamba as the authors write one, EMA and all."""
    plain, ema = timm.create_model("test_vmamba"), timm.create_model("test_vmamba")
    content = dict(
        model=vmamba.official_state_dict(plain), model_ema=vmamba.official_state_dict(ema), optimizer={}, epoch=3,
        max_accuracy=82.6, config=config,
    )  # fmt: skip
    path = tmp_path / "vssm_ckpt_epoch_3.pth"
    torch.save(content, path)
    monkeypatch.delitem(sys.modules, "yacs.config")  # who loads it need not have it
    return path


def load(path: Path, name: str = "test_vmamba", **options) -> nn.Module:
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **options)


def test_file_with_a_configuration_object(file: Path) -> None:
    state = vmamba.official_state_dict(load(file))
    names = {"layers.0.downsample.1.weight", "layers.3.blocks.0.op.A_logs", "classifier.head.weight"}
    assert names <= set(state)
    assert "yacs.config" not in sys.modules
    averaged = timm.create_model("test_vmamba")
    vimzoo.load_checkpoint(averaged, file, use_ema=True)
    weight = "layers.0.blocks.0.op.in_proj.weight"
    assert not torch.equal(vmamba.official_state_dict(averaged)[weight], state[weight])


@pytest.mark.parametrize(
    "options", [{"num_classes": 7}, {"num_classes": 0}, {"in_chans": 1}, {"img_size": 96}], ids=str
)
def test_file_for_another_task(file: Path, options: dict) -> None:
    model = load(file, **options)
    size = options.get("img_size", 64)
    out = model(torch.randn(1, options.get("in_chans", 3), size, size))
    assert out.shape == (1, options.get("num_classes", 10) or 64)
    pyramid = load(file, features_only=True)
    torch.testing.assert_close(
        pyramid.model.stages[0].blocks[0].ss2d.ssm.D, load(file).stages[0].blocks[0].ss2d.ssm.D
    )


def test_a_file_that_does_not_fit_is_refused_whole(file: Path) -> None:
    for options in ({"dims": 32}, {"depths": (1, 1, 2, 1)}, {"gate": "act"}, {"ratio": 2.0}):
        with pytest.raises(vimzoo.CheckpointError, match=r"vssm_ckpt_epoch_3\.pth.*nothing was loaded"):
            load(file, **options)
    with pytest.raises(vimzoo.CheckpointError, match="vssm_ckpt"):
        load(file, "test_vim")


def test_every_published_classifier_takes_the_authors_names() -> None:
    """Every name and shape of the nine goes out and comes back, without memory for the numbers."""
    published = [facts for facts in VMAMBA_FACTS.values() if facts.url]
    assert len(published) == 9
    for facts in published:
        model = timm.create_model(facts.name, device="meta")
        native = checkpoint_filter_fn({"model": vmamba.official_state_dict(model)}, model)
        shapes = {name: value.shape for name, value in native.items()}
        assert shapes == {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize("function", vmamba.PUBLISHED)
def test_published_constructors_build_the_registered_models(function: str) -> None:
    name, _, rate = vmamba.PUBLISHED[function]
    with torch.device("meta"):
        model = getattr(vmamba, function)(num_classes=10)
        registered = timm.create_model(name, num_classes=10)
    shapes = [{key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (model, registered)]
    assert shapes[0] == shapes[1]
    assert str(model.stages) == str(timm.create_model(name, drop_path_rate=rate, device="meta").stages)


def test_published_constructors_load_through_timm(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published weights are replaced by a small file, and the network by the one that it is for."""
    want, create = load(file), timm.create_model

    def from_file(name, **options):
        assert name == VMAMBA_FACTS["vmamba_tiny_s1l8"].tagged_name
        return create("test_vmamba", pretrained_cfg_overlay=dict(file=str(file)), **options)

    monkeypatch.setattr(timm, "create_model", from_file)
    sizes = {key: VMAMBA_FACTS["test_vmamba"].args[key] for key in ("depths", "dims")}
    model = vmamba.vmamba_tiny_s1l8(pretrained=True, ssm_d_state=2, mlp_ratio=2.0, num_classes=7, **sizes)
    torch.testing.assert_close(
        model.stages[0].blocks[0].ss2d.ssm.A_log, want.stages[0].blocks[0].ss2d.ssm.A_log
    )
