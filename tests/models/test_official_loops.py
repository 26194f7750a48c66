"""What the authors' training code calls and reads on a model."""

import copy
import math
from abc import ABCMeta, abstractmethod

import pytest
import torch
from torch import nn

import vimzoo
from vimzoo.compat import mambair, vim, vmamba
from vimzoo.compat.mamba_ssm.utils import generation, hf

SMALL_VIM = dict(img_size=32, patch_size=8, stride=8, embed_dim=16, depth=2, num_classes=5)
SMALL_VSSM = dict(
    depths=[1, 2], dims=16, num_classes=5, ssm_d_state=2, forward_type="v05_noz", norm_layer="ln2d"
)
PLACES = {
    "middle": {},
    "head": dict(use_middle_cls_token=False),
    "double": dict(use_double_cls_token=True),
    "none": dict(if_cls_token=False, final_pool_type="mean"),
}


def small_vim(place: str = "middle", **options) -> vim.VisionMamba:
    torch.manual_seed(0)
    return vim.VisionMamba(**{**SMALL_VIM, **PLACES[place], **options}).eval()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch):
    """Replaces the draws of a shuffle and of a place."""

    def put(order=None, place: int | None = None) -> None:
        if order is not None:
            monkeypatch.setattr(torch, "randperm", lambda count: order(count))
        if place is not None:
            monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor(place))

    return put


@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_vims_engine_passes_its_two_options(place: str) -> None:
    model, x = small_vim(place), torch.randn(2, 3, 32, 32)
    got = model(x, if_random_cls_token_position=False, if_random_token_rank=False)
    torch.testing.assert_close(got, model(x), rtol=0, atol=0)
    features = model(x, True, None, False, False)
    torch.testing.assert_close(features, model.forward_features(x), rtol=0, atol=0)


@pytest.mark.parametrize("place", ("middle", "head", "double"))
@torch.no_grad()
def test_an_order_that_changes_nothing(place: str, drawn) -> None:
    drawn(order=torch.arange, place=0)
    model, x = small_vim(place), torch.randn(2, 3, 32, 32)
    got = model(x, if_random_cls_token_position=True, if_random_token_rank=True)
    torch.testing.assert_close(got, model(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_shuffle_is_one_of_tokens_with_their_positions(drawn) -> None:
    """Backward, without position embedding: the patches in reverse order around the same middle token."""
    drawn(order=lambda count: torch.arange(count - 1, -1, -1))
    model, x = small_vim(), torch.randn(2, 3, 32, 32)
    patches = x.unflatten(3, (4, 8)).unflatten(2, (4, 8))  # (B, C, 4, 8, 4, 8)
    reversed_x = patches.flip(2, 4).flatten(4, 5).flatten(2, 3)
    assert not torch.allclose(model(x, if_random_token_rank=True), model(reversed_x), atol=1e-5)
    nn.init.zeros_(model.pos_embed)
    torch.testing.assert_close(model(x, if_random_token_rank=True), model(reversed_x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_class_token_may_stand_anywhere(drawn) -> None:
    """In the middle it is the middle class token; positions are those of the sequence."""
    drawn(place=8)
    model, middle, x = small_vim("head"), small_vim("middle"), torch.randn(2, 3, 32, 32)
    middle.load_state_dict(model.state_dict())
    got = model(x, if_random_cls_token_position=True)
    torch.testing.assert_close(got, middle(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, model(x), atol=1e-5)
    for other in (middle, small_vim("double"), small_vim("none")):  # theirs moves single, not middle ones
        torch.testing.assert_close(other(x, if_random_cls_token_position=True), other(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="if_random_token_rank: expected a model with a class token"):
        small_vim("none")(x, if_random_token_rank=True)


def test_random_orders_are_drawn_from_torch() -> None:
    model, x = small_vim("head"), torch.randn(1, 3, 32, 32)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(model(x, if_random_cls_token_position=True, if_random_token_rank=True))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    results[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("cfg", "scale"),
    [
        (None, 1 / math.sqrt(2)),
        (dict(rescale_prenorm_residual=False), 1.0),
        (dict(n_residuals_per_layer=2), 0.5),
        (dict(initializer_range=0.1), 1 / math.sqrt(2)),
    ],
)
def test_initializer_cfg_acts(cfg: dict | None, scale: float) -> None:
    """Kaiming's uniform numbers of fan-in 128 reach 1 / sqrt(128), divided by the root of the residual layers."""
    model = vim.VisionMamba(**{**SMALL_VIM, "embed_dim": 64}, initializer_cfg=cfg)
    for _ in range(2):
        largest = max(block.mixer.out_proj.weight.abs().max().item() for block in model.blocks)
        assert largest == pytest.approx(scale / math.sqrt(128), rel=0.01)
        model.init_weights()
    with pytest.raises(
        TypeError, match=r"VisionMamba: initializer_cfg\(\) got unexpected keyword arguments std"
    ):
        small_vim(initializer_cfg=dict(std=0.1))


def test_vims_main_creates_its_models() -> None:
    """``create_model`` of their ``main.py``, with all that it passes on."""
    name = "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
    given = dict(num_classes=10, drop_rate=0.1, drop_path_rate=0.2, drop_block_rate=None, img_size=64)
    with torch.device("meta"):
        model = vim.create_model(name, pretrained=False, **given)
    assert isinstance(model, vim.VisionMamba) and model.pos_drop.p == 0.1 and model.num_classes == 10
    assert type(vim.create_model("test_vim", num_classes=3)).__name__ == "Vim"


@pytest.mark.parametrize("family", ["vim", "vmamba"])
def test_weight_decay_by_the_authors_rule(family: str) -> None:
    """VMamba's optimizer compares whole names; what is not decayed is what is not in theirs."""
    model = small_vim() if family == "vim" else vmamba.VSSM(**SMALL_VSSM)
    skip, keywords = model.no_weight_decay(), getattr(model, "no_weight_decay_keywords", dict)()
    kept = {
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 1 or name.endswith(".bias") or name in skip or any(k in name for k in keywords)
    }
    theirs = vim.official_state_dict(model) if family == "vim" else vmamba.official_state_dict(model)
    exempt = {"pos_embed", "cls_token"} if family == "vim" else set()
    wanted = {n for n, t in theirs.items() if t.dim() == 1 or n.endswith(".bias") or n in exempt}
    count = sum(model.get_parameter(name).numel() for name in kept)
    assert count == sum(theirs[name].numel() for name in wanted) > 0


def test_a_classifiers_head_is_replaced() -> None:
    model, x = vmamba.VSSM(**SMALL_VSSM).eval(), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.classifier(model.stages(model.patch_embed(x))), model(x))
    head = nn.Linear(32, 7)
    model.classifier.head = head
    assert model.head.fc is head and model.classifier.head is head and model.num_classes == 7
    assert model(x).shape == (2, 7)
    assert vmamba.official_state_dict(model)["classifier.head.weight"] is not None
    model.classifier.norm = nn.Identity()
    assert isinstance(model.norm, nn.Identity)
    with pytest.raises(AttributeError, match="classifier: a view of VSSM's parts"):
        model.classifier = nn.Identity()
    assert "classifier" not in dict(model.named_children())
    del model.classifier
    assert not [name for name, _ in model.named_parameters() if name.startswith(("norm.", "head."))]
    assert model(x).shape == (2, 4, 4, 32)


def test_vmambas_stages_are_layers() -> None:
    model, x = vmamba.VSSM(**SMALL_VSSM).eval(), torch.randn(2, 3, 32, 32)
    y = model.patch_embed(x)
    for layer in model.layers:
        y = layer(y)
    torch.testing.assert_close(model.classifier(y), model(x))
    scan = model.layers[1].blocks[0].op
    assert scan is model.stages[1].blocks[0].ss2d and isinstance(model.layers[-1].downsample, nn.Identity)
    state = vmamba.official_state_dict(model)
    for name in ("A_logs", "Ds", "x_proj_weight", "dt_projs_weight", "dt_projs_bias"):
        assert torch.equal(getattr(scan, name), state[f"layers.1.blocks.0.op.{name}"])
    with pytest.raises(AttributeError, match=r"A_logs: a view of ssm\.A_log"):
        scan.A_logs = scan.A_logs + 1
    assert len(dict(model.named_parameters())) == len(state)


def test_flops_of_a_model() -> None:
    """Scan: 9 operations per state, 2 for D and gate, the rank for the step size; a multiply-add is 1."""
    model = vmamba.VSSM(**{**SMALL_VSSM, "depths": [1], "dims": 16, "ssm_ratio": 1.0, "mlp_ratio": 0.0})
    tokens, dim, rank, states = 8 * 8, 16, 1, 2
    products = 2 * dim * dim + 9 * dim + 4 * dim * (rank + 2 * states)
    scan = 4 * dim * (9 * states + 2 + rank)
    stem, head = 3 * 4 * 4 * dim, dim * 5
    assert model.flops((3, 32, 32), verbose=False) == tokens * (products + scan + stem) + head
    assert model.training
    image = [mambair.MambaIR(img_size=side, embed_dim=32, depths=[1], d_state=4).flops() for side in (16, 32)]
    assert image[1] == pytest.approx(4 * image[0], rel=1e-3) and image[0] > 16 * 16 * 32 * 32 * 9


def test_mambairs_parts_have_the_authors_names() -> None:
    model = mambair.MambaIR(
        embed_dim=32, d_state=4, depths=[1, 1], upscale=4, upsampler="pixelshuffle"
    ).eval()
    x = torch.rand(1, 3, 8, 6)
    y = first = model.conv_first(x - model.mean)
    size = tuple(y.shape[2:])
    for layer in model.layers:
        y = layer(model.patch_unembed(model.patch_embed(y), size).permute(0, 2, 3, 1) if layer is model.layers[0]
                  else y)  # fmt: skip
    y = model.conv_after_body(model.norm(y).permute(0, 3, 1, 2)) + first
    y = model.conv_last(model.upsample(model.conv_before_upsample(y))) + model.mean
    torch.testing.assert_close(y, model(x))
    model.conv_last = nn.Conv2d(64, 3, 1)
    assert model.head.conv_out.kernel_size == (1, 1) and model(x).shape == (1, 3, 32, 24)
    assert (model.num_layers, model.upscale, model.mlp_ratio, model.is_light_sr) == (2, 4, 2.0, False)
    with pytest.raises(AttributeError, match="upscale: fixed when MambaIR is built, got 2"):
        model.upscale = 2
    copied = copy.deepcopy(model)
    assert copied.layers[0] is copied.groups[0] and copied.arguments == model.arguments


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: mambair.MambaIR(upscal=3), "MambaIR.*upscal"),
        (lambda: mambair.MambaIRv2Light(window=8), "MambaIRv2Light.*window"),
        (lambda: vmamba.VSSM(ssm_rank=1), "VSSM.*ssm_rank"),
        (lambda: vim.VisionMambaSeg(dept=3), "VisionMambaSeg.*dept"),
        (lambda: mambair.SS2D(32, dropuot=0.1), "SS2D.*dropuot"),
    ],
)
def test_misspelt_arguments_are_refused_by_the_constructors_name(build, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        build()


def test_what_their_own_scripts_pass_on_is_taken() -> None:
    """Without effect in theirs, too."""
    with torch.device("meta"):
        assert vmamba.VSSM(**SMALL_VSSM, ssm_rank_ratio=2.0)
        assert mambair.MambaIR(embed_dim=32, depths=[1], window_size=8, num_heads=[6], interval=1)
        assert mambair.VSSBlock(32, input_resolution=(8, 8))
        assert vim.VisionMambaSeg(
            **{**SMALL_VIM, "out_indices": [1]}, ft_seq_len=4, if_cls_token=True, if_fpn=False
        )


@pytest.mark.parametrize("name", ["v052d3", "v052d3_noz", "xv1a", "xv3a_cpos_act", "v31d"])
def test_forward_types_that_are_not_offered_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"forward_type: {name.split('_')[0]} is not offered"):
        vmamba.VSSM(**{**SMALL_VSSM, "forward_type": name})


def test_other_options_that_are_not_offered() -> None:
    with pytest.raises(ValueError, match="downsample_version: 'none' is not offered"):
        vmamba.VSSM(**SMALL_VSSM, downsample_version="none")
    with pytest.raises(ValueError, match="_SS2D: expected"):
        vmamba.VSSM(**SMALL_VSSM, _SS2D=nn.Linear)
    with pytest.raises(ValueError, match="initializer_cfg: expected None"):
        vim.VisionMambaDet(initializer_cfg=dict(rescale_prenorm_residual=False))
    for scans in (3, -1):
        with pytest.raises(ValueError, match=f"scans: expected 0, 1 or 2, got {scans}"):
            vmamba.cross_scan_fn(torch.zeros(1, 2, 3, 3), scans=scans)
        with pytest.raises(ValueError, match=f"scans: expected 0, 1 or 2, got {scans}"):
            vmamba.cross_merge_fn(torch.zeros(1, 4, 2, 3, 3), scans=scans)


def test_token_by_token_inference_is_refused() -> None:
    model = small_vim()
    block = vim.create_block(16)
    for call in (model.allocate_inference_cache, block.allocate_inference_cache):
        with pytest.raises(NotImplementedError, match="inference"):
            call(1, 4)
    with pytest.raises(NotImplementedError, match="language models"):
        generation.GenerationMixin().generate()
    for load in (hf.load_config_hf, hf.load_state_dict_hf):
        with pytest.raises(NotImplementedError, match="language models"):
            load("name")


def test_a_detectors_backbone_says_its_shape() -> None:
    with torch.device("meta"):
        backbone = vim.VisionMambaDet(img_size=64, embed_dim=16, depth=2)
    shape = backbone.output_shape()["last_feat"]
    assert (shape.channels, shape.stride, backbone.size_divisibility) == (16, 16, 0)
    assert backbone.get_num_layers() == 2 and backbone.num_tokens == 0


class BaseModule(nn.Module, metaclass=ABCMeta):
    """As OpenMMLab's: its ``init_weights`` takes no arguments."""

    def __init__(self, init_cfg=None) -> None:
        super().__init__()
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        self.initialised = True


class MMBackbone(BaseModule, vmamba.Backbone_VSSM):
    """As VMamba's detection and segmentation code makes its own."""

    def __init__(self, *args, **kwargs) -> None:
        BaseModule.__init__(self)
        vmamba.Backbone_VSSM.__init__(self, *args, **kwargs)


class DetectronBackbone(nn.Module, metaclass=ABCMeta):
    """As detectron2's, which a feature pyramid asks for."""

    @abstractmethod
    def forward(self): ...

    @property
    def size_divisibility(self) -> int:
        return 1

    def output_shape(self):
        raise NotImplementedError


class DetBackbone(vim.VisionMambaDet, DetectronBackbone):
    """In the order of the authors' own bases."""


def test_backbones_with_a_frameworks_base_class() -> None:
    options = {name: value for name, value in SMALL_VSSM.items() if name != "num_classes"}
    backbone = MMBackbone(out_indices=(0, 1), pretrained=None, **options)
    backbone.init_weights()
    assert backbone.initialised
    state = vmamba.official_state_dict(backbone)
    assert not backbone.load_state_dict(state).missing_keys
    assert [tuple(y.shape) for y in backbone(torch.randn(1, 3, 32, 32))] == [(1, 16, 8, 8), (1, 32, 4, 4)]
    detector = DetBackbone(img_size=32, embed_dim=16, depth=2)
    assert detector.output_shape()["last_feat"].channels == 16 and detector.size_divisibility == 0
    assert detector(torch.randn(1, 3, 32, 32))["last_feat"].shape == (1, 16, 2, 2)


def test_backbones_are_initialised_from_a_file(tmp_path) -> None:
    source = small_vim()
    torch.save({"model": vim.official_state_dict(source)}, tmp_path / "vim.pth")
    options = {name: value for name, value in SMALL_VIM.items() if name != "num_classes"}
    backbone = vim.VisionMambaSeg(**options, out_indices=[1], if_fpn=False)
    backbone.init_weights(str(tmp_path / "vim.pth"))
    assert torch.equal(backbone.blocks[1].mixer.out_proj.weight, source.blocks[1].mixer.out_proj.weight)
    backbone.init_weights()
    assert not torch.equal(backbone.blocks[1].mixer.out_proj.weight, source.blocks[1].mixer.out_proj.weight)
    with pytest.raises(vimzoo.CheckpointError):
        vim.VisionMambaSeg(**{**options, "embed_dim": 24}, if_fpn=False).init_weights(tmp_path / "vim.pth")
