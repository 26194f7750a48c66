"""What models of timm's contract must do, for every classifier of a family that came after Vim and VMamba."""

import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo.layers import searched_directions
from vimzoo.models.registry import FAMILIES

RELATIVES = [
    next(name for name in family.facts if name.startswith("test_"))
    for family in FAMILIES.values()
    if family.task == "classification" and family.name not in ("Vim", "VMamba")
]
SEARCH = {"test_local_vim": {"depth": 4}, "test_local_vmamba": {"depths": (1, 1, 1, 1)}}


def test_there_are_relatives() -> None:
    assert {"test_local_vim", "test_local_vmamba", "test_plain_mamba"} <= set(RELATIVES)


@pytest.mark.parametrize("name", RELATIVES)
def test_contract(name: str) -> None:
    """Classes, features, groups, checkpointing and initialisation, on one model."""
    model = timm.create_model(name, num_classes=7, drop_path_rate=0.1)
    images = torch.randn(2, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        features = model.forward_features(images)
        torch.testing.assert_close(model.forward_head(features), model(images))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        final, maps = model.forward_intermediates(images)
        torch.testing.assert_close(final, features)
        _, first = model.forward_intermediates(images, [0], stop_early=True)
        torch.testing.assert_close(first[0], maps[0])
    infos = model.feature_info
    assert [tuple(m.shape) for m in maps] == [
        (2, info["num_chs"], 64 // info["reduction"], 64 // info["reduction"]) for info in infos
    ]
    model.set_grad_checkpointing()
    model.train()
    model(images).square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert {n for names in groups.values() for n in names} == {n for n, _ in model.named_parameters()}
    model.reset_classifier(3)
    assert model.eval()(images).shape == (2, 3) and model.get_classifier().out_features == 3
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


@pytest.mark.parametrize("name", [name for name in RELATIVES if name != "test_local_vim"])
def test_the_norm_is_of_maps_of_the_last_resolution(name: str) -> None:
    model = timm.create_model(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = model.forward_intermediates(images, output_fmt="NHWC", intermediates_only=True)
        normed = model.forward_intermediates(images, norm=True, output_fmt="NHWC", intermediates_only=True)
        end, _ = model.forward_intermediates(images, [0], stop_early=True)
        features = model.forward_features(images)
        last = model.feature_info[-1]
        for info, x, y in zip(model.feature_info, plain, normed, strict=True):
            fits = (info["num_chs"], info["reduction"]) == (last["num_chs"], last["reduction"])
            torch.testing.assert_close(y, model.norm(x) if fits else x)
    torch.testing.assert_close(end, normed[0])
    torch.testing.assert_close(normed[-1], features)


@pytest.mark.parametrize("name", RELATIVES)
def test_backbone_of_another_size(name: str) -> None:
    """Maps at their strides for an image that is not square, and the same classes after pruning."""
    backbone = timm.create_model(name, features_only=True, in_chans=1).eval()
    maps = backbone(torch.randn(1, 1, 64, 96))
    reductions, widths = backbone.feature_info.reduction(), backbone.feature_info.channels()
    assert [tuple(m.shape) for m in maps] == [
        (1, width, -(-64 // step), -(-96 // step)) for width, step in zip(widths, reductions, strict=True)
    ]
    model = timm.create_model(name).eval()
    kept = model.forward_intermediates(torch.ones(1, 3, 64, 64), 1, intermediates_only=True)
    model.prune_intermediate_layers(1)
    torch.testing.assert_close(
        model.forward_intermediates(torch.ones(1, 3, 64, 64), 1, intermediates_only=True), kept
    )


@pytest.mark.parametrize("name", RELATIVES)
def test_after_the_meta_device_a_model_is_as_initialised(name: str) -> None:
    torch.manual_seed(0)
    want = {n: p.std() for n, p in timm.create_model(name).named_parameters()}
    with torch.device("meta"):
        model = timm.create_model(name)
    model.to_empty(device="cpu").init_weights()
    for parameter, value in model.named_parameters():
        assert value.isfinite().all(), parameter
        if value.numel() > 500:
            torch.testing.assert_close(value.std(), want[parameter], rtol=0.2, atol=1e-6, msg=parameter)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELATIVES)
def test_compiled_whole(name: str) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize("name", RELATIVES)
def test_half_precision(name: str) -> None:
    model, images = timm.create_model(name, num_classes=5).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (model(images).float() - want).abs().max() < 0.05
        assert (model.bfloat16()(images.bfloat16()).float() - want).abs().max() < 0.05


@pytest.mark.parametrize("name", SEARCH)
def test_a_search_ends_in_a_network_of_the_chosen_directions(name: str) -> None:
    search = timm.create_model(name, directions="search", **SEARCH[name])
    layers = [part for part in search.modules() if getattr(part, "weights", None) is not None]
    assert all(layer.weights.shape == (8, 1, 1) for layer in layers)
    for k, layer in enumerate(layers):
        nn.init.zeros_(layer.weights)
        layer.weights.data[[k, 4, 7]] = 1.0
    chosen = searched_directions(search, 3)
    assert chosen[0] == ("h", "w2", "w7_flip") and chosen[1] == ("h_flip", "w2", "w7_flip")
    network = timm.create_model(name, directions=chosen, **SEARCH[name]).eval()
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(ValueError, match="model: expected one with directions='search'"):
        searched_directions(network)


@pytest.mark.parametrize("name", SEARCH)
@pytest.mark.parametrize(
    ("directions", "said"),
    [
        (["h", "x"], "'h', 'v' or 'w'.*got 'x'"),
        (["w0"], "got 'w0'"),
        ([["h"]], "one set for each of"),
        ("hv", "got 'hv'"),
    ],
)
def test_wrong_directions_are_named(name: str, directions: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        timm.create_model(name, directions=directions)


def test_options_of_other_mixers_are_refused() -> None:
    with pytest.raises(TypeError, match="bimamba"):
        timm.create_model("test_local_vim", bimamba="v1")
    with pytest.raises(TypeError, match="paths"):
        timm.create_model("test_local_vmamba", paths="cross")


def test_a_position_embedding_with_a_class_token_is_resized_around_it() -> None:
    """The authors' code cannot run this model on another size."""
    model = timm.create_model("test_local_vim", cls_token="middle", rope=False, rope_residual=False).eval()
    assert model(torch.randn(1, 3, 64, 80)).shape == (1, 1000)
    model.set_input_size((96, 64))
    assert model.pos_embed.shape == (1, 25, 32) and model(torch.randn(1, 3, 96, 64)).shape == (1, 1000)


def test_a_backbone_starts_from_a_classifier(tmp_path) -> None:
    from vimzoo.compat.local_vim import Backbone_LocalVisionMamba, VisionMamba, official_state_dict

    options = dict(
        img_size=64, embed_dim=32, depth=2, directions=[["h"], ["v"]], if_abs_pos_embed=True, if_rope=True
    )
    classifier = VisionMamba(**options)
    torch.save({"state_dict": official_state_dict(classifier)}, tmp_path / "classifier.ckpt")
    backbone = Backbone_LocalVisionMamba((0, 1), str(tmp_path / "classifier.ckpt"), **options)
    assert torch.equal(backbone.blocks[1].mixer.ssm.x_proj, classifier.blocks[1].mixer.ssm.x_proj)
    assert [tuple(m.shape) for m in backbone(torch.randn(1, 3, 64, 96))] == [(1, 32, 4, 6)] * 2
    with pytest.raises(vimzoo.CheckpointError, match="patch_embed"):
        torch.save({"state_dict": {"head.weight": torch.zeros(2, 2)}}, tmp_path / "other.ckpt")
        Backbone_LocalVisionMamba((0, 1), str(tmp_path / "other.ckpt"), **options)
