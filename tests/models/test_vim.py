"""Vim's own contract: every option, any image, initialisation, features, and errors that say what is wrong."""

import contextlib
import math
import warnings

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import vimzoo  # noqa: F401  registers the models
from vimzoo.models.tokens import cls_tokens, insert_cls, patch_tokens, resize_pos_embed
from vimzoo.models.vim import VIM_FACTS, VIM_LONG_NAMES, Vim, checkpoint_filter_fn
from vimzoo.models.vim.ablations import OPTIONS as OPTIONS_OF_ABLATIONS
from vimzoo.models.vim.ablations import VimAblation
from vimzoo.ops import use_backend

SMALL = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_classes=5, d_state=4)
OPTIONS = [
    {},
    *({"bimamba": kind} for kind in ("none", "v1", "v2")),
    *({"cls_token": place} for place in ("none", "head", "middle", "double")),
    *({"cls_token": "none", "global_pool": pool} for pool in ("last", "avg", "max")),
    *({"cls_token": place, "rope": True} for place in ("none", "head", "middle", "double")),
    {"rope": True, "rope_residual": True, "flip_rate": 1.0},
    {"flip_rate": 1.0},
    {"paired": True, "bimamba": "none"},
    {"paired": True, "bimamba": "none", "depth": 3, "rope": True, "rope_residual": True},
    {"layer_scale": 0.1},
    {"divide_out": False},
    {"norm": "layer", "residual_in_fp32": False},
    {"stride": 4},
    {"pos_embed": False},
    {"d_conv": 3, "expand": 1, "dt_rank": 3, "conv_bias": False, "proj_bias": True},
    {"in_chans": 1},
    {"drop_path_rate": 0.5, "drop_rate": 0.5, "pos_drop_rate": 0.5},
    {"step_sizes": {"dt_min": 0.01, "dt_init": "constant"}},
]


def small(**options) -> Vim:
    return (VimAblation if OPTIONS_OF_ABLATIONS & options.keys() else Vim)(**{**SMALL, **options})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_trains(options: dict) -> None:
    model = small(**options).train()
    x = torch.randn(2, options.get("in_chans", 3), 32, 32)
    logits = model(x)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    logits.sum().backward()
    never_run = "blocks.2." if options.get("paired") and options.get("depth") == 3 else "-"
    missing = [name for name, p in model.named_parameters() if p.grad is None and never_run not in name]
    assert not missing


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_intermediates_agree_with_the_model(options: dict) -> None:
    model = small(**options).eval()
    x = torch.randn(2, options.get("in_chans", 3), 32, 32)
    with torch.no_grad():
        last, features = model.forward_intermediates(x, norm=True, output_fmt="NLC")
        torch.testing.assert_close(last, model.forward_features(x))
    assert len(features) == len(model.blocks)
    # at the end of the last block the normalised feature is the model's own
    in_order = last.flip(1) if options.get("flip_rate") else last
    torch.testing.assert_close(features[-1], patch_tokens(in_order, model.cls_position))


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (33, 47), (8, 8)], ids=str)
@pytest.mark.parametrize("place", ["none", "head", "middle", "double"])
def test_any_image_size(size: tuple[int, int], place: str) -> None:
    """A model that takes any size gives what a model built for that size gives."""
    dynamic = small(cls_token=place, dynamic_img_size=True, rope=True).eval()
    fixed = small(cls_token=place, img_size=size, rope=True).eval()
    fixed.load_state_dict(checkpoint_filter_fn(dynamic.state_dict(), fixed))
    resized = small(cls_token=place, rope=True).eval()
    resized.load_state_dict(dynamic.state_dict())
    resized.set_input_size(size)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        want = dynamic(x)
        torch.testing.assert_close(fixed(x), want)
        torch.testing.assert_close(resized(x), want)
    rows, columns = fixed.patch_embed.grid_size
    maps = fixed.forward_intermediates(x, intermediates_only=True)
    assert maps[0].shape == (1, 16, rows, columns)


def test_padding_instead_of_dropping() -> None:
    model = small(dynamic_img_size=True, dynamic_img_pad=True)
    features = model.forward_intermediates(torch.randn(1, 3, 33, 40), intermediates_only=True)
    assert features[0].shape[-2:] == (5, 5)


@pytest.mark.parametrize("place", ["none", "head", "middle", "double"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_class_tokens_go_in_and_come_out(place: str, count: int) -> None:
    patches, tokens = torch.randn(2, count, 3), torch.randn(1, 2 if place == "double" else 1, 3)
    sequence = patches if place == "none" else insert_cls(patches, tokens, place)
    torch.testing.assert_close(patch_tokens(sequence, place), patches)
    if place != "none":
        torch.testing.assert_close(cls_tokens(sequence, place), tokens.expand(2, -1, -1))


def test_resize_keeps_the_class_tokens_row() -> None:
    rows = torch.randn(1, 17, 3)
    for place in ("head", "middle"):
        resized = resize_pos_embed(rows, (4, 4), (5, 3), place)
        torch.testing.assert_close(cls_tokens(resized, place), cls_tokens(rows, place))
    assert resize_pos_embed(rows, (4, 4), (4, 4)) is rows


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = Vim(depth=2)
    mixer = model.blocks[0].mixer
    step = torch.nn.functional.softplus(mixer.ssm.dt_bias[0])
    assert step.min() > 0.0009 and step.max() < 0.11
    assert (mixer.ssm.dt_bias[1] == 0).all()  # as the authors' code leaves it
    torch.testing.assert_close(mixer.ssm.A_log[1, 0].exp(), torch.arange(1.0, 17))
    assert mixer.out_proj.weight.abs().max() <= 384**-0.5 / math.sqrt(2)
    assert model.patch_embed.proj.weight.std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.05)
    assert (model.patch_embed.proj.bias == 0).all() and (model.head.bias == 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"layer_scale": 0.1, "norm": "layer", "cls_token": "double"}], ids=str
)
def test_init_weights_after_to_empty(options: dict) -> None:
    model = small(**options, device="meta").to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    model.init_weights()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_weight_decay_groups() -> None:
    """As the authors': no decay for vectors and embeddings; A_log is decayed."""
    from timm.optim import param_groups_weight_decay

    model = small()
    groups = param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    kinds = {name.split("mixer.")[-1] for name, p in model.named_parameters() if id(p) in decayed}
    matrices = {"in_proj.weight", "out_proj.weight", "conv.weight", "ssm.A_log", "ssm.x_proj", "ssm.dt_proj"}
    assert kinds == matrices | {"head.weight", "patch_embed.proj.weight"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"img_size": 4}, ValueError, "img_size.*at least one patch.*4 x 4"),
        ({"patch_size": 0}, ValueError, "patch_size.*positive.*0"),
        ({"num_classes": -1}, ValueError, "num_classes.*-1"),
        ({"in_chans": 0}, ValueError, "in_chans.*0"),
        ({"embed_dim": 0}, ValueError, "embed_dim.*0"),
        ({"depth": 0}, ValueError, "depth.*0"),
        ({"d_state": 0}, ValueError, "d_state.*0"),
        ({"bimamba": "v3"}, ValueError, "bimamba.*'v3'"),
        ({"cls_token": "tail"}, ValueError, "cls_token.*'tail'"),
        ({"norm": "batch"}, ValueError, "norm.*'batch'"),
        ({"global_pool": "mean"}, ValueError, "global_pool.*'mean'"),
        ({"cls_token": "none", "global_pool": "token"}, ValueError, "global_pool.*class token"),
        ({"embed_dim": 18, "rope": True}, ValueError, "embed_dim.*multiple of 4.*18"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
    ],
    ids=str,
)
def test_bad_options_are_named(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "dynamic", "words"),
    [
        ((3, 32, 32), False, "x: expected a batch"),
        ((1, 4, 32, 32), False, "x: expected 3 channels.*got 4"),
        (
            (1, 3, 40, 32),
            False,
            "x: expected a height of 32 and a width of 32.*got 40 and 32.*dynamic_img_size",
        ),
        ((1, 3, 7, 32), True, "height of at least 8 .*width of at least 8.*got 7 and 32"),
        ((1, 3, 32, 7), True, "height of at least 8 .*width of at least 8.*got 32 and 7"),
    ],
)
def test_bad_images_are_named(shape: tuple, dynamic: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(dynamic_img_size=dynamic)(torch.zeros(shape))


@pytest.mark.parametrize("name", ["test_vim", "test_vmamba", "test_mambair"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_images_that_are_not_finite(name: str, value: float, backend: str | None) -> None:
    """Nothing in the answer to such an image is a number, the others' answers are as ever, and a warning says so."""
    model = timm.create_model(name).eval()
    x = torch.rand(3, *model.pretrained_cfg["input_size"])
    with torch.no_grad(), use_backend(backend) if backend else contextlib.nullcontext():
        expected = model(x)
        x[1, 0, 5, 7] = value
        with pytest.warns(RuntimeWarning, match=r"NaN or infinite pixels in images \[1\] of 3"):
            found = model(x)
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
        with warnings.catch_warnings(), FlopCounterMode(display=False):
            warnings.simplefilter("error")  # a counter's memory need not hold numbers
            model(x)
        x[1] = torch.finfo(torch.float32).max  # large, yet a number
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(x)


def test_empty_batch() -> None:
    assert small()(torch.zeros(0, 3, 32, 32)).shape == (0, 5)


@pytest.mark.parametrize("name", VIM_FACTS)
def test_facts_are_the_models(name: str) -> None:
    facts = VIM_FACTS[name]
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == facts.params
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == facts.input_size and cfg["license"] == "apache-2.0"
    assert (cfg.get("hf_hub_id"), cfg.get("hf_hub_filename")) == (facts.hub_id, facts.hub_file)


@pytest.mark.parametrize("name", VIM_LONG_NAMES)
def test_the_authors_names_resolve(name: str) -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        model = timm.create_model(name, device="meta")
    assert isinstance(model, Vim) and model.num_classes == 1000


def test_features_for_dense_tasks() -> None:
    model = timm.create_model("test_vim", features_only=True, out_indices=(0, 2), dynamic_img_size=True)
    assert model.feature_info.channels() == [32, 32] and model.feature_info.reduction() == [16, 16]
    assert [tuple(f.shape) for f in model(torch.randn(1, 3, 64, 96))] == [(1, 32, 4, 6)] * 2


def test_prefix_tokens_and_dict_output() -> None:
    model = small(cls_token="double")
    x = torch.randn(1, 3, 32, 32)
    pairs = model.forward_intermediates(x, 1, return_prefix_tokens=True, intermediates_only=True)
    assert [part.shape for part in pairs[0]] == [(1, 16, 4, 4), (1, 2, 16)]
    result = model.forward_intermediates(x, 1, return_prefix_tokens=True, output_dict=True)
    assert set(result) == {"image_features", "image_intermediates", "image_intermediates_prefix"}


def test_compile_and_export() -> None:
    model = small().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.testing.assert_close(exported.module()(x[:1]), want[:1])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = small().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0)


def test_autocast_trains() -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 32))
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
