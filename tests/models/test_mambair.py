"""MambaIR's models as a user meets them: timm's registry, files, sizes, routing, the authors' constructors."""

from pathlib import Path

import pytest
import timm
import torch
from mambair_builds import BUILDS, MICRO, as_saved, image_for, small
from timm.models._features_fx import create_feature_extractor

import vimzoo
from vimzoo.compat import mambair, vim
from vimzoo.models import MambaIR, MambaIRUNet, MambaIRv2
from vimzoo.models.mambair.facts import MAMBAIR_FACTS
from vimzoo.ops import use_backend


@pytest.mark.parametrize("form", ("params", "params_ema", "ours", "safetensors"))
@pytest.mark.parametrize("kind", BUILDS)
@torch.no_grad()
def test_a_file_needs_no_model_name(kind: str, form: str, tmp_path: Path) -> None:
    model = small(kind)
    path = as_saved(model, form, tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth"))
    loaded = vimzoo.load_restoration(path, routing="argmax")
    if isinstance(model, MambaIRv2):
        model.routing = "argmax"
    assert not loaded.training
    assert loaded.scale == model.scale
    x = image_for(model)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("form", ("light", "light_mar2024", "light_feb2024"))
@torch.no_grad()
def test_light_generations_are_told_apart(form: str, tmp_path: Path) -> None:
    """The same call built three networks; a file of each loads by name, and into what the call builds today."""
    old = MambaIR(embed_dim=36, depths=(1, 1), d_state=4, ratio=1.5, upsampler="pixelshuffledirect", cab=form)
    path = as_saved(old, "params", tmp_path / "old.pth")
    x = image_for(old)
    loaded = vimzoo.load_restoration(path)
    assert loaded.groups[0].blocks[0].cab.form == form
    assert torch.equal(loaded(x), old(x))
    today = mambair.MambaIR(
        embed_dim=36, depths=[1, 1], d_state=4, mlp_ratio=1.5, upsampler="pixelshuffledirect", upscale=2
    ).eval()
    today.load_state_dict(mambair.official_state_dict(old))
    assert torch.equal(today(x), old(x))


@torch.no_grad()
def test_unet_of_before_july_2024(tmp_path: Path) -> None:
    states = (4, 8, 16, 32, 16, 8, 8, 8)
    old = MambaIRUNet(embed_dim=32, depths=(1, 1, 1, 1), refinement_depth=1, d_state=states)
    x = torch.rand(1, 3, 16, 8)
    loaded = vimzoo.load_restoration(as_saved(old, "params", tmp_path / "old.pth"))
    assert torch.equal(loaded(x), old(x))
    today = mambair.MambaIRUNet(dim=32, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, mlp_ratio=1.5)
    today.load_state_dict(mambair.official_state_dict(old))
    assert torch.equal(today(x), old(x))


@pytest.mark.parametrize("kind", BUILDS)
def test_official_names_there_and_back(kind: str) -> None:
    model = small(kind)
    state = mambair.official_state_dict(model)
    other = BUILDS[kind]()
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    name = next(name for name in state if name.endswith("A_logs"))
    del state[name]
    result = other.load_state_dict(state, strict=False)
    assert result.missing_keys == [name]


@pytest.mark.parametrize(
    ("state", "says"),
    (
        ({"layers.0.residual_group.blocks.0.attn.qkv.weight": (3, 1)}, "SwinIR"),
        ({"layers.0.residual_group.blocks.0.attn.qkv.weight": (3, 1), "a.overlap_attn.x": (1,)}, "HAT"),
        ({"encoder_level1.0.attn.temperature": (1,)}, "Restormer"),
        ({"something.else": (1,)}, "begin with something.else"),
    ),
)
def test_a_file_of_another_kind_says_what_it_looks_like(state: dict, says: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"params": {name: torch.zeros(shape) for name, shape in state.items()}}, path)
    with pytest.raises(vimzoo.CheckpointError, match=says):
        vimzoo.load_restoration(path)


def test_a_classifier_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vim.pth"
    torch.save(vim.official_state_dict(timm.create_model("test_vim")), path)
    with pytest.raises(vimzoo.CheckpointError, match="Vim"):
        vimzoo.load_restoration(path)


@pytest.mark.parametrize("kind", ("light_x3", "v2_x2", "unet"))
def test_a_damaged_file_is_refused(kind: str, tmp_path: Path) -> None:
    state = mambair.official_state_dict(small(kind))
    for name in ("conv_first.weight", "patch_embed.proj.weight", "conv_after_body.weight", "output.weight"):
        if name in state:
            path = tmp_path / "damaged.pth"
            torch.save({"params": {other: t for other, t in state.items() if other != name}}, path)
            with pytest.raises(vimzoo.CheckpointError, match=r"conv_|patch_embed|output"):
                vimzoo.load_restoration(path)


@pytest.mark.parametrize("size", ((1, 1), (3, 5), (7, 19)))
@pytest.mark.parametrize("kind", ("sr_x3", "light_x3", "grey", "v2_x2", "v2_light_x4", "v2_dn"))
@torch.no_grad()
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    """The kernels see maps narrower than their tiles; the plain PyTorch operators know no tiles."""
    model = small(kind)
    if isinstance(model, MambaIRv2):
        model.routing = "argmax"
    x = image_for(model, *size)
    output = model(x)
    assert output.shape == (1, model.in_chans, size[0] * model.scale, size[1] * model.scale)
    with use_backend("reference"):
        plain = model(x)
    assert (output - plain).abs().max() <= 3e-5 * plain.abs().max()


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        small("unet")(torch.rand(1, 3, 12, 16))
    with pytest.raises(ValueError, match="images"):
        small("sr_x2")(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="30 channels"):
        MambaIR(embed_dim=16)


@torch.no_grad()
def test_routing() -> None:
    model = small("v2_x2")
    x = image_for(model, 16, 16)
    assert not torch.equal(model(x), model(x))  # as published, also in evaluation
    seeded = [model(x) for model.generator in (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    model.routing = "argmax"
    assert torch.equal(model(x), model(x))
    calls: list = []
    model.route_noise = lambda logits: calls.append(tuple(logits.shape)) or torch.zeros_like(logits)
    certain = model(x)
    assert calls == [(1, 256, 10)] * 3
    model.route_noise = None
    assert torch.equal(certain, model(x))


@pytest.mark.parametrize("kind", ("light_x3", "v2_x2", "unet"))
def test_recomputed_gradients_are_the_same(kind: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = small(kind).train()
        model.set_grad_checkpointing(recompute)
        model.generator = torch.Generator().manual_seed(3)
        torch.manual_seed(5)
        image = torch.rand(1, 3, 8, 8)
        for module in model.modules():
            if type(module).__name__ == "DropPath":
                module.drop_prob = 0.0
        model(image).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-4, atol=1e-5)


def test_drop_rate_is_dropout_of_the_embedding() -> None:
    """The authors' ``pos_drop``: between the patch embedding and the first block, in training only."""
    torch.manual_seed(0)
    model = mambair.MambaIR(**MICRO, upscale=1, drop_rate=0.25)
    image, seen = image_for(model, 16, 16), {}
    model.stem_norm.register_forward_hook(lambda *args: seen.update(before=args[2]))
    model.groups[0].register_forward_pre_hook(lambda _, args: seen.update(after=args[0]))
    model.train()(image)
    kept = seen["after"] != 0
    assert 0.7 < kept.float().mean() < 0.8
    torch.testing.assert_close(seen["after"], torch.where(kept, seen["before"] / 0.75, 0.0))
    model.eval()(image)
    assert torch.equal(seen["after"], seen["before"])
    with pytest.raises(ValueError, match=r"1\.5"):
        mambair.MambaIR(**MICRO, drop_rate=1.5)


def test_registry() -> None:
    assert set(timm.list_models(module="mambair")) == set(MAMBAIR_FACTS)
    model = timm.create_model("test_mambair")
    assert model.num_classes == 0
    assert model(torch.rand(2, 3, 9, 7)).shape == (2, 3, 18, 14)
    assert model.pretrained_cfg["pool_size"] is None


@pytest.mark.parametrize("name", MAMBAIR_FACTS)
def test_facts(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == MAMBAIR_FACTS[name].params


@torch.no_grad()
def test_create_model_loads_the_authors_file(tmp_path: Path) -> None:
    model = timm.create_model("test_mambair").eval()
    path = as_saved(model, "params", tmp_path / "net_g_latest.pth")
    loaded = timm.create_model("test_mambair", pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    x = torch.rand(1, 3, 10, 6)
    assert torch.equal(loaded.eval()(x), model(x))


@pytest.mark.parametrize("kind", ("light_x3", "v2_x2", "unet"))
@torch.no_grad()
def test_half_precision_runs(kind: str) -> None:
    """The authors' whole-model ``.bfloat16()`` raises."""
    model = small(kind)
    model.routing = "argmax"
    x = image_for(model)
    want, got = model(x), model.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16
    if kind != "v2_x2":  # a route may flip
        assert (got.float() - want).abs().max() < 0.1 * want.std() + 0.1


def test_reset_after_the_meta_device() -> None:
    with torch.device("meta"):
        model = timm.create_model("mambairv2_light_x2")
    model.to_empty(device="cpu").init_weights()
    layer = model.groups[0].blocks[0]
    assert layer.scale1.eq(1e-4).all()
    assert layer.attn.index.max() == 31 * 31 - 1
    assert model(torch.rand(1, 3, 16, 16)).isfinite().all()


@torch.no_grad()
def test_export_and_features() -> None:
    model = timm.create_model("test_mambair").eval()
    x = torch.rand(1, 3, 12, 8)
    want = model(x).detach()  # eager PyTorch does several of the program's steps in one
    found = torch.export.export(model, (x,)).module()(x)
    assert (found - want).abs().max() < 3e-5 * want.std()
    graph = create_feature_extractor(model, ["head"])
    assert graph(x)["head"].shape == want.shape
