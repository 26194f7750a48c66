"""The Vim authors' constructors, keys and files."""

import argparse

import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo.compat import mamba_ssm, vim
from vimzoo.models.tokens import patch_tokens, resize_pos_embed
from vimzoo.models.vim import VIM_LONG_NAMES, Vim

SMALL = dict(img_size=32, patch_size=8, stride=8, embed_dim=16, depth=2, num_classes=5)


def small(**options) -> vim.VisionMamba:
    return vim.VisionMamba(**{**SMALL, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_double_cls_token": True},
        {"if_bimamba": True},
        {"bimamba_type": "none", "if_bidirectional": True},
        {"if_cls_token": False, "final_pool_type": "max"},
        {"if_rope": True, "rms_norm": False},
        {"ssm_cfg": {"bias": True, "conv_bias": False, "dt_min": 0.01}},
        {"init_layer_scale": 0.1},
    ],
    ids=str,
)
def test_state_goes_out_and_in_under_the_authors_names(options: dict) -> None:
    source, target = small(**options).eval(), small(**options).eval()
    state = vim.official_state_dict(source)
    assert not any(".ssm." in name or name.startswith(("blocks.", "norm.")) for name in state)
    assert not target.load_state_dict(state).missing_keys
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=0)
    assert target.load_state_dict(source.state_dict())  # our own names are taken as well


def test_missing_and_unexpected_keys_are_the_authors() -> None:
    model = small()
    state = vim.official_state_dict(model)
    del state["layers.1.mixer.A_b_log"], state["norm_f.weight"]
    state["layers.0.mixer.extra"] = torch.zeros(1)
    state["layers.0.mixer.conv1d_b.weight"] = torch.zeros(32, 1, 3)
    del state["layers.0.mixer.conv1d.bias"]
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict(state)
    words = str(raised.value)
    assert "size mismatch for layers.0.mixer.conv1d_b.weight" in words
    for name in (
        "layers.1.mixer.A_b_log",
        "norm_f.weight",
        "layers.0.mixer.extra",
        "layers.0.mixer.conv1d.bias",
    ):
        assert f'"{name}"' in words
    assert "blocks." not in words and ".ssm." not in words
    del state["layers.0.mixer.conv1d_b.weight"]
    result = model.load_state_dict(state, strict=False)
    assert "layers.1.mixer.A_b_log" in result.missing_keys
    assert result.unexpected_keys == ["layers.0.mixer.extra"]


def test_a_mixer_inside_another_model() -> None:
    """A user's own model that holds the authors' mixer keeps its checkpoints."""

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 16)
            self.mixers = nn.ModuleList(mamba_ssm.Mamba(16, bimamba_type="v2") for _ in range(2))

    source, target = Theirs(), Theirs()
    state = {f"stem.{name}": value for name, value in source.stem.state_dict().items()}
    for i, mixer in enumerate(source.mixers):
        state.update({f"mixers.{i}.{n}": v for n, v in vim.official_state_dict(mixer).items()})
    target.load_state_dict(state)
    torch.testing.assert_close(target.mixers[1].ssm.A_log, source.mixers[1].ssm.A_log)
    del state["mixers.0.A_b_log"]
    with pytest.raises(RuntimeError, match=r"mixers\.0\.A_b_log"):
        target.load_state_dict(state)


def test_gradients_under_the_authors_names() -> None:
    model = small()
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    gradients = vim.official_gradients(model)
    assert set(gradients) == set(vim.official_state_dict(model))
    whole = model.blocks[0].mixer.ssm.A_log.grad
    torch.testing.assert_close(gradients["layers.0.mixer.A_b_log"], whole[1])


@pytest.mark.parametrize("spelling", ["if_divide_out", "if_devide_out"])
def test_both_spellings_of_the_division(spelling: str) -> None:
    assert vim.Mamba(16, bimamba_type="v2", **{spelling: True}).halve
    assert not small(**{spelling: False}).blocks[0].mixer.halve
    block = vim.create_block(16, bimamba_type="v2", rms_norm=True, layer_idx=3, **{spelling: True})
    assert block.mixer.halve and block.layer_idx == 3


def test_a_block_alone() -> None:
    block, copy = (vim.create_block(16, bimamba_type="v2", rms_norm=True) for _ in range(2))
    state = vim.official_state_dict(block)
    assert "norm.weight" in state and "mixer.A_b_log" in state
    copy.load_state_dict(state)
    x = torch.randn(1, 5, 16)
    hidden, residual = block(x)
    hidden, residual = block(hidden, residual)
    assert hidden.shape == residual.shape == x.shape


def test_names_that_the_authors_code_reads() -> None:
    model = small()
    assert model.layers is model.blocks and model.norm_f is model.norm
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    assert model(torch.zeros(1, 3, 32, 32), return_features=True).shape == (1, 16)
    with pytest.raises(NotImplementedError, match="inference_params"):
        model(torch.zeros(1, 3, 32, 32), inference_params=object())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: small(no_such_option=1), TypeError, "no_such_option"),
        (lambda: small(ssm_cfg={"nope": 1}), TypeError, "nope"),
        (lambda: small(final_pool_type="avg"), ValueError, "final_pool_type.*'avg'"),
        (lambda: mamba_ssm.Mamba(16, bimamba_type="v4"), ValueError, "bimamba"),
    ],
)
def test_bad_arguments_are_named(call, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", VIM_LONG_NAMES)
def test_the_registered_functions(name: str) -> None:
    model = getattr(vim, name)(num_classes=3, device="meta")
    assert isinstance(model, Vim) and model.num_classes == 3
    with pytest.raises(TypeError, match="if_cls_token"):
        getattr(vim, name)(if_cls_token=False)


def authors_file(path, model: nn.Module) -> str:
    ema = {name: value + 1 for name, value in vim.official_state_dict(model).items()}
    torch.save(
        dict(model=vim.official_state_dict(model), model_ema=ema, epoch=3, args=argparse.Namespace(lr=1.0)),
        path,
    )
    return str(path)


def test_an_authors_file_through_timm(tmp_path) -> None:
    """At its own size, at another, with other classes and other channels."""
    source = vim.VisionMamba(img_size=64, embed_dim=32, depth=3, d_state=8, num_classes=10).eval()
    overlay = dict(file=authors_file(tmp_path / "vim.pth", source))

    def create(**options):
        return timm.create_model(
            "test_vim", pretrained=True, pretrained_cfg_overlay=overlay, **options
        ).eval()

    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(create()(x), source(x), rtol=0, atol=0)
    large = create(img_size=(96, 64), num_classes=7)
    assert large(torch.randn(1, 3, 96, 64)).shape == (1, 7)
    want = resize_pos_embed(source.pos_embed, (4, 4), (6, 4))
    torch.testing.assert_close(large.pos_embed, want)
    assert create(in_chans=1)(x[:, :1]).shape == (1, 10)
    features = create(features_only=True, out_indices=(0, 1))(x)
    assert [tuple(f.shape) for f in features] == [(1, 32, 4, 4)] * 2

    averaged = timm.create_model("test_vim").eval()
    vimzoo.load_checkpoint(averaged, overlay["file"], use_ema=True)
    torch.testing.assert_close(averaged.norm.weight, source.norm.weight + 1)

    official = timm.create_model("test_vim", img_size=96)
    official.load_pretrained(overlay["file"], official_pos_embed=True)
    want = resize_pos_embed(source.pos_embed, (4, 4), (6, 6), official=True)
    torch.testing.assert_close(official.pos_embed, want)


def test_a_file_that_does_not_fit_says_which_tensor(tmp_path) -> None:
    source = vim.VisionMamba(img_size=64, embed_dim=32, depth=3, d_state=8)
    state = vim.official_state_dict(source)
    del state["layers.2.mixer.A_b_log"]
    torch.save({"model": state}, tmp_path / "torn.pth")
    overlay = dict(file=str(tmp_path / "torn.pth"))
    with pytest.raises(vimzoo.CheckpointError, match=r"torn\.pth.*layers\.2\.mixer\.A_b_log is missing"):
        timm.create_model("test_vim", pretrained=True, pretrained_cfg_overlay=overlay)


def test_a_backbone_starts_from_a_classifier(tmp_path) -> None:
    source = vim.VisionMamba(img_size=64, embed_dim=16, depth=2)
    path = authors_file(tmp_path / "vim.pth", source)
    seg = vim.VisionMambaSeg(img_size=64, embed_dim=16, depth=2, out_indices=[1], pretrained=path)
    torch.testing.assert_close(seg.pos_embed, patch_tokens(source.pos_embed, "middle"))
    torch.testing.assert_close(seg.blocks[1].mixer.ssm.A_log, source.blocks[1].mixer.ssm.A_log)
    det = vim.VisionMambaDet(img_size=96, embed_dim=16, depth=2, pretrained=path, last_layer_process="add")
    assert det(torch.randn(1, 3, 96, 96))["last_feat"].shape == (1, 16, 6, 6)


def test_a_dense_backbone_takes_any_aspect() -> None:
    seg = vim.VisionMambaSeg(img_size=(64, 96), embed_dim=16, depth=4, out_indices=[0, 1, 2, 3])
    sizes = [tuple(f.shape[-2:]) for f in seg(torch.randn(2, 3, 64, 96))]
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_selective_scan_fn_is_ours() -> None:
    assert mamba_ssm.selective_scan_fn is vimzoo.ops.selective_scan


def test_position_embeddings_are_resized_to_an_oblong_grid() -> None:
    """As many patches as in a square one, but not where they are in it."""
    model = vim.VisionMamba(img_size=(32, 128), embed_dim=4, depth=1, if_cls_token=False)
    rows = torch.arange(4.0).repeat_interleave(4)[None, :, None].expand(1, 16, 4)
    state = {"pos_embed": rows.clone()}
    vim.interpolate_pos_embed(model, state)
    found = state["pos_embed"][0, :, 0].view(2, 8)
    assert torch.allclose(found, found[:, :1].expand(2, 8), atol=1e-5) and found[1, 0] > found[0, 0] + 1
    with pytest.raises(ValueError, match="pos_embed: expected patches of a square grid, got 15"):
        vim.interpolate_pos_embed(model, {"pos_embed": torch.zeros(1, 15, 4)})
