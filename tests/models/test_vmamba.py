"""VMamba's own contract: every option, any image, initialisation, features, and errors that say what is wrong."""

import math
import warnings

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn

import vimzoo  # noqa: F401  registers the models
from vimzoo.layers import SS2D, MapDownsample, SelectiveSSM, VSSBlock, VSSBlock2d
from vimzoo.models.vmamba import VMAMBA_FACTS, VMamba, checkpoint_filter_fn
from vimzoo.models.vmamba.dense import VMambaDense
from vimzoo.ops import ScanPath

SMALL = dict(img_size=32, depths=(1, 2), dims=(16, 24), num_classes=5, mlp_ratio=2.0)
OPTIONS = [
    {},
    *({"gate": kind} for kind in ("act", "linear")),
    *({"paths": name} for name in ("bidirectional", "unidirectional", "cascade")),
    {"paths": (ScanPath.snake(), ScanPath.hilbert(), ScanPath.hilbert().reversed())},
    *({"out_norm": kind} for kind in ("none", "softmax", "sigmoid", "conv", "layer conv")),
    *({"init": kind} for kind in ("random", "zero")),
    *({"ssd": True, "init": kind, "d_state": 4, "dt_rank": 2} for kind in ("mamba", "random", "zero")),
    {"ssd": True, "gate": "act", "paths": "cascade", "dt_rank": 4},
    {"act": "gelu", "mlp_act": "silu", "out_act": True},
    {"d_conv": 5, "conv_bias": True, "ratio": 1.5, "d_state": 3, "dt_rank": 3},
    {"d_conv": 0},
    {"ratio": 0.0},
    {"mlp_ratio": 0.0},
    {"mlp_gated": True},
    {"norm": "batch"},
    {"stem": "patch", "downsample": "merge"},
    {"downsample": "conv2", "stem_norm": False},
    {"pos_embed": True},
    {"in_chans": 1, "patch_size": 8},
    {"drop_path_rate": 0.5, "drop_rate": 0.5, "ssm_drop_rate": 0.5, "mlp_drop_rate": 0.5},
]


def small(**options) -> VMamba:
    return VMamba(**{**SMALL, **options})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_trains(options: dict) -> None:
    model = small(**options).train()
    logits = model(torch.randn(2, options.get("in_chans", 3), 32, 32))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    logits.sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_are_initialised_again_after_to_empty(options: dict) -> None:
    model = small(**options, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    model.init_weights()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert isinstance(model.no_weight_decay(), set)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_intermediates_agree_with_the_model(options: dict) -> None:
    model = small(**options).eval()
    x = torch.randn(2, options.get("in_chans", 3), 32, 32)
    with torch.no_grad():
        last, features = model.forward_intermediates(x, norm=True, output_fmt="NHWC")
        torch.testing.assert_close(last, model.forward_features(x))
    torch.testing.assert_close(features[-1], last)
    if "patch_size" not in options:  # as the authors', a stem of two 5 x 5 convolutions drops the border
        assert features[0].shape == (2, 8, 8, 16)


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (33, 47), (4, 4), (4, 60)], ids=str)
@pytest.mark.parametrize("downsample", ["merge", "conv3"])
def test_any_image_size(size: tuple[int, int], downsample: str) -> None:
    model = small(downsample=downsample).eval()
    x = torch.randn(1, 3, *size)
    maps = model.forward_intermediates(x, intermediates_only=True)
    rows, columns = -(-size[0] // 4), -(-size[1] // 4)
    assert maps[0].shape == (1, 16, rows, columns)
    assert maps[1].shape == (1, 24, -(-rows // 2), -(-columns // 2))


def test_merging_pads_odd_maps_with_zeros() -> None:
    merge, x = MapDownsample(8, 12, "merge"), torch.randn(2, 5, 7, 8)
    padded = nn.functional.pad(x, (0, 0, 0, 1, 0, 1))
    torch.testing.assert_close(merge(x), merge(padded))


def test_position_embeddings_fit_any_size() -> None:
    model = small(pos_embed=True).eval()
    other = small(pos_embed=True, img_size=(48, 40)).eval()
    other.load_state_dict(checkpoint_filter_fn(model.state_dict(), other))
    x = torch.randn(1, 3, 48, 40)
    torch.testing.assert_close(model(x), other(x))
    model.set_input_size((48, 40))
    assert model.pos_embed.shape == other.pos_embed.shape == (1, 16, 12, 10)
    torch.testing.assert_close(model(x), other(x))


@pytest.mark.parametrize("paths", ["cross", "bidirectional", "unidirectional", "cascade"])
@pytest.mark.parametrize("size", [(4, 6), (5, 1), (1, 5), (1, 1)], ids=str)
def test_scans_see_what_their_paths_say(paths: str, size: tuple[int, int]) -> None:
    """Which inputs reach the output at one position, told by gradients."""
    layer = SS2D(8, paths=paths, d_conv=0, out_norm="none", ratio=1)
    x = torch.randn(1, *size, 8, requires_grad=True)
    row, column = size[0] // 2, size[1] // 2
    layer.scan(x)[0, row, column].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    if paths == "unidirectional":
        order = torch.arange(size[0] * size[1]).view(size)
        assert torch.equal(seen, order <= order[row, column])
    else:
        assert seen.all()


def test_any_paths_are_one_line() -> None:
    layer = SS2D(16, paths=[ScanPath("row"), ScanPath("column")])
    assert layer.ssm.A_log.shape[0] == 2


@torch.no_grad()
def test_windows_are_the_order_of_their_tokens() -> None:
    """On a map padded to whole windows, against the order written out by hand."""
    padded = [(row, column) for row in range(6) for column in range(8)]
    order = sorted(padded, key=lambda at: (at[0] // 2, at[1] // 2, *at))
    numbers = torch.tensor([7 * row + column if row < 5 and column < 7 else -1 for row, column in order])
    windows = SS2D(16, paths=[ScanPath.window(2), ScanPath.window(2).reversed()])
    by_hand = SS2D(16, paths=[ScanPath.from_table(numbers), ScanPath.from_table(numbers.flip(0))])
    rows = SS2D(16, paths=[ScanPath("row"), ScanPath("row").reversed()])
    for other in (by_hand, rows):
        other.load_state_dict(windows.state_dict())
    x = torch.randn(2, 5, 7, 16)
    torch.testing.assert_close(windows(x), by_hand(x))
    assert not torch.allclose(windows(x), rows(x), atol=1e-5)


def test_heads_are_the_scan_with_repeated_parameters() -> None:
    """Mamba-2's form against the plain one that is told the same numbers channel by channel."""
    heads, plain = SelectiveSSM(12, 4, 3, 2, heads=True), SelectiveSSM(12, 4, 3, 2)
    with torch.no_grad():
        rates, dt_proj, dt_bias = heads.step_parameters()
        plain.A_log.copy_((-rates).log())
        plain.dt_proj.copy_(dt_proj.expand(2, -1, -1))
        plain.dt_bias.copy_(dt_bias)
        plain.x_proj.copy_(heads.x_proj)
    x = torch.randn(2, 20, 12)
    codes = [0, 1]
    torch.testing.assert_close(heads(x, None, codes, None, 4, 5), plain(x, None, codes, None, 4, 5))


@pytest.mark.parametrize("channels_last", [False, True])
def test_block_keeps_the_layout_of_its_map(channels_last: bool) -> None:
    block, inner = VSSBlock2d(16, channels_last=channels_last), VSSBlock(16)
    inner.load_state_dict(block.state_dict())
    x = torch.randn(2, 5, 7, 16)
    given = x if channels_last else x.permute(0, 3, 1, 2).contiguous()
    got = block(given) if channels_last else block(given).permute(0, 2, 3, 1)
    torch.testing.assert_close(got, inner(x))


def test_post_norm_normalises_what_a_branch_gives() -> None:
    block = VSSBlock(16, post_norm=True, mlp_ratio=0)
    x = torch.randn(1, 4, 4, 16)
    torch.testing.assert_close(block(x), x + block.norm1(block.ss2d(x)))


def test_initialisation() -> None:
    model = small(dims=(64, 64), d_state=16, ratio=2.0)
    ssm = model.stages[0].blocks[0].ss2d.ssm
    step = nn.functional.softplus(ssm.dt_bias)
    assert step.min() > 0.0009 and step.max() < 0.11
    torch.testing.assert_close(ssm.A_log[3, 0].exp(), torch.arange(1.0, 17))
    assert ssm.x_proj.abs().max() <= 128**-0.5 and (ssm.D == 1).all()
    assert model.stages[0].blocks[0].ss2d.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (model.head.fc.bias == 0).all()
    zero = SS2D(32, init="zero").ssm
    assert (zero.A_log == 0).all() and zero.dt_bias.min() >= 0 and zero.dt_bias.max() <= 0.1
    random = SS2D(64, init="random", d_state=8).ssm
    assert random.A_log.std().item() == pytest.approx(1, rel=0.1)
    assert random.dt_bias.std().item() == pytest.approx(0.1, rel=0.3)


def test_weight_decay_is_the_authors() -> None:
    model = small()
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    decayed = {id(p) for p in groups[1]["params"]}
    ssm = model.stages[0].blocks[0].ss2d.ssm
    assert id(ssm.D) not in decayed
    assert all(id(p) in decayed for p in (ssm.A_log, ssm.dt_bias, ssm.x_proj, ssm.dt_proj))


def test_layer_groups_follow_depth() -> None:
    model = small()
    fine, coarse = (group_parameters(model, model.group_matcher(coarse)) for coarse in (False, True))
    assert len(fine) == 1 + 3 + 1 and len(coarse) == 1 + 2 + 1  # stem, blocks or stages, head
    assert "stages.1.downsample.proj.weight" in fine[2] and "norm.weight" in fine[3]


@pytest.mark.parametrize("fmt", ["NCHW", "NHWC"])
def test_feature_pyramid(fmt: str) -> None:
    model = timm.create_model("test_vmamba", features_only=True, out_indices=(0, 2, 3), output_fmt=fmt)
    maps = model(torch.randn(1, 3, 64, 96))
    assert model.feature_info.channels() == [24, 48, 64]
    assert model.feature_info.reduction() == [4, 16, 32]
    shapes = [tuple(map_.shape) for map_ in maps]
    want = [(1, 24, 16, 24), (1, 48, 4, 6), (1, 64, 2, 3)]
    if fmt == "NHWC":
        want = [(b, h, w, c) for b, c, h, w in want]
    assert shapes == want


def test_gradient_checkpointing_changes_nothing() -> None:
    model = small().train()
    x = torch.randn(2, 3, 32, 32)
    want = model(x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), want)


@pytest.mark.parametrize("paths", ["cross", (ScanPath.snake(), ScanPath("column"))], ids=["cross", "table"])
def test_compiles_whole(paths) -> None:
    model = small(paths=paths, depths=(1, 1)).eval()
    x = torch.randn(1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x))


def test_half_precision() -> None:
    model, x = small().eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (model(x).float() - want).abs().max() < 0.05
        assert (model.bfloat16()(x.bfloat16()).float() - want).abs().max() < 0.05


@pytest.mark.parametrize("name", VMAMBA_FACTS)
def test_registered_as_the_facts_say(name: str) -> None:
    facts = VMAMBA_FACTS[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == facts.params
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == facts.input_size and cfg.get("url") == facts.url
    assert cfg["license"] == ("apache-2.0" if facts.shipped else "mit") and facts.paper in cfg["paper_ids"]
    assert cfg["first_conv"] + ".weight" in model.state_dict()


def test_dense_backbone_from_a_classifier_and_from_a_detector(tmp_path) -> None:
    classifier = small()
    torch.save({"model": classifier.state_dict()}, tmp_path / "classifier.pth")
    options = {key: value for key, value in SMALL.items() if key != "num_classes"}
    dense = VMambaDense(out_indices=(0, 1), **options).eval()
    dense.load_classifier(tmp_path / "classifier.pth")
    x = torch.randn(1, 3, 32, 32)
    want = classifier.eval().forward_intermediates(x, intermediates_only=True)
    for got, raw, norm in zip(dense(x), want, dense.outnorms.values(), strict=True):
        torch.testing.assert_close(got, norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    detector = {f"backbone.{name}": value for name, value in dense.state_dict().items()}
    torch.save({"state_dict": {**detector, "neck.conv.weight": torch.zeros(1)}}, tmp_path / "detector.pth")
    again = VMambaDense(out_indices=(0, 1), **options).eval()
    again.load_pretrained(tmp_path / "detector.pth", prefix="backbone.")
    for got, wanted in zip(again(x), dense(x), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gate": "silu"}, "gate"),
        ({"paths": "diagonal"}, "paths"),
        ({"paths": ()}, "paths"),
        ({"out_norm": "batch"}, "out_norm"),
        ({"act": "tanh"}, "act"),
        ({"d_conv": 4}, "d_conv"),
        ({"d_state": 0}, "d_state"),
        ({"dt_rank": 0}, "dt_rank"),
        ({"ssd": True, "dt_rank": 5}, "dt_rank"),
        ({"init": "v0"}, "init"),
        ({"norm": "group"}, "norm"),
        ({"stem": "v1"}, "stem"),
        ({"downsample": "none"}, "downsample"),
        ({"patch_size": 5}, "patch_size"),
        ({"patch_size": 0}, "patch_size"),
        ({"depths": (1, 0)}, "depths"),
        ({"depths": ()}, "depths"),
        ({"dims": (16,)}, "dims"),
        ({"num_classes": -1}, "num_classes"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 32, 32), "4|batch"),
        ((1, 4, 32, 32), "channels"),
        ((1, 3, 2, 32), "height"),
        ((1, 3, 32, 3), "width"),
    ],
    ids=str,
)
def test_wrong_images_are_named(shape: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small()(torch.randn(shape))


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="not_an_option"):
        timm.create_model("test_vmamba", not_an_option=1)


@pytest.mark.parametrize(
    ("layer", "shape", "said"),
    [
        (SS2D(16), (2, 5, 16), r"\(B, H, W, C\), got 3"),
        (SS2D(16), (2, 5, 7, 8), "16 channels, got 8"),
        (VSSBlock(16), (2, 16, 5, 7), r"\(B, H, W, C\) of 16 channels, got 7"),
        (VSSBlock2d(16), (2, 5, 7, 16), r"\(B, C, H, W\) of 16 channels, got 5"),
    ],
    ids=["rank", "channels", "channels first", "channels last"],
)
def test_wrong_maps_are_named(layer: nn.Module, shape: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        layer(torch.randn(shape))
