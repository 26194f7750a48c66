"""Loading into models: names and shapes checked first, all tensors or none, through timm's doors as well."""

import argparse
import copy
import logging
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from vimzoo.models.weights.loading import CheckpointError, build_model, load_checkpoint, load_into


class Net(nn.Module):
    """A backbone in miniature: input convolution, position embedding, a stack, a classifier."""

    def __init__(self, num_classes=7, in_chans=3, embed_dim=8, depth=2, tokens=4, global_pool="avg"):
        super().__init__()
        self.num_classes, self.in_chans, self.embed_dim, self.num_features = (
            num_classes,
            in_chans,
            embed_dim,
            8,
        )
        self.stem = nn.Conv2d(in_chans, embed_dim, 2, 2)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, embed_dim))
        self.layers = nn.ModuleList(nn.Linear(embed_dim, embed_dim) for _ in range(depth))
        self.norm = nn.BatchNorm1d(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.pretrained_cfg = dict(CFG)

    def load_pretrained(self, checkpoint_path, prefix="", *, use_ema=False):
        load_into(self, checkpoint_path, filter_fn, use_ema=use_ema, prefix=prefix)


CFG = dict(num_classes=7, input_size=(3, 4, 4), first_conv="stem", classifier="head")


def authors_names(model):
    return {name.replace("layers.", "blocks."): value.clone() for name, value in model.state_dict().items()}


def filter_fn(state_dict, model):
    pos = state_dict["pos_embed"]
    if pos.shape[1] != model.pos_embed.shape[1]:
        pos = nn.functional.interpolate(pos.mT, model.pos_embed.shape[1]).mT
    return {name.replace("blocks.", "layers."): v for name, v in {**state_dict, "pos_embed": pos}.items()}


def save(path, state_dict, **more):
    torch.save({"model": state_dict, "args": argparse.Namespace(lr=1e-3), "epoch": 3, **more}, path)
    return str(path)


@pytest.fixture
def source():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def path(tmp_path, source):
    return save(tmp_path / "net.pth", authors_names(source))


def same(model, other, but=()):
    mine, theirs = model.state_dict(), other.state_dict()
    return [
        n for n in theirs if not n.startswith(but) and not torch.equal(mine[n].float(), theirs[n].float())
    ]


def refuses(model, path, *, match, filter_fn=filter_fn, **kwargs):
    """Loading raises, names the file, and leaves every bit of the model."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=match) as caught:
        load_into(model, path, filter_fn, **kwargs)
    assert str(caught.value).startswith(str(path))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return str(caught.value)


# --- what loads


def test_loads_the_authors_file(path, source):
    model = Net()
    load_into(model, path, filter_fn)
    assert same(model, source, but=()) == []


def test_file_can_be_replaced_after_loading(path, source):
    model = Net()
    load_into(model, Path(path), filter_fn)
    Path(path).write_bytes(b"")
    assert same(model, source) == []


def test_half_precision_file_into_float32(tmp_path, source):
    halves = {n: v.half() if v.is_floating_point() else v for n, v in authors_names(source).items()}
    halves["norm.weight"][0] = float("inf")
    model = Net()
    load_into(model, save(tmp_path / "half.pth", halves), filter_fn)
    assert model.stem.weight.dtype == torch.float32
    assert torch.equal(model.stem.weight, source.stem.weight.half().float())
    assert model.norm.weight[0] == float("inf")


def test_another_image_size_goes_through_the_filter(path, source):
    model = Net(tokens=9)
    load_into(model, path, filter_fn)
    assert same(model, source, but=("pos_embed",)) == []


def test_ema_is_taken_only_on_request(tmp_path, source):
    ema = {name: value * 2 for name, value in authors_names(source).items()}
    path = save(tmp_path / "both.pth", authors_names(source), model_ema=ema)
    model = Net()
    load_checkpoint(model, path)
    assert same(model, source) == []
    load_checkpoint(model, path, use_ema=True)
    assert torch.equal(model.stem.weight, source.stem.weight * 2)


def test_prefix(tmp_path, source):
    inside = {f"backbone.{n}": v for n, v in authors_names(source).items()} | {"neck.weight": torch.ones(1)}
    path = save(tmp_path / "detector.pth", inside)
    model = Net()
    model.load_pretrained(path, prefix="backbone.")
    assert same(model, source) == []
    refuses(model, path, match=r"no tensor's name begins with 'encoder\.'", prefix="encoder.")


def test_load_checkpoint_needs_one_of_our_models(path):
    with pytest.raises(TypeError, match="Linear has no load_pretrained"):
        load_checkpoint(nn.Linear(1, 1), path)


# --- another class count, another number of channels


@pytest.mark.parametrize("num_classes", [0, 3, 1000])
def test_other_class_count_leaves_the_classifier_and_says_so(path, source, num_classes, caplog):
    model = Net(num_classes=num_classes)
    head = copy.deepcopy(model.head.state_dict())
    with caplog.at_level(logging.INFO, "vimzoo.models.weights.loading"):
        load_into(model, path, filter_fn)
    assert same(model, source, but=("head",)) == []
    assert all(torch.equal(head[name], value) for name, value in model.head.state_dict().items())
    assert [r.getMessage().count("classifier head not loaded") for r in caplog.records] == [1]


@pytest.mark.parametrize("gone", ["stem.weight", "norm.running_mean", "blocks.1.bias", "head.bias"])
def test_other_class_count_does_not_excuse_a_missing_tensor(tmp_path, source, gone):
    state = authors_names(source)
    del state[gone]
    path = save(tmp_path / "gap.pth", state)
    refuses(Net(num_classes=3), path, match=f"1 missing .{gone.replace('blocks', 'layers')}")


def test_other_class_count_does_not_excuse_a_misshapen_tensor(tmp_path, source):
    state = authors_names(source) | {"norm.bias": torch.ones(9)}
    path = save(tmp_path / "bad.pth", state)
    refuses(Net(num_classes=3), path, match=r"norm.bias: got \(9,\), expected \(8,\)")


def test_file_finetuned_to_the_class_count_keeps_its_classifier(tmp_path):
    tuned = Net(num_classes=3)
    path = save(tmp_path / "tuned.pth", authors_names(tuned))
    model = Net(num_classes=3)
    load_into(model, path, filter_fn)
    assert same(model, tuned) == []


def test_class_count_of_the_file_is_named_when_none_was_asked_for(tmp_path):
    path = save(tmp_path / "tuned.pth", authors_names(Net(num_classes=3)))
    refuses(Net(), path, match=r"it has 3 classes and the model 7; pass num_classes=3")


@pytest.mark.parametrize("in_chans", [1, 4, 6])
def test_other_channel_count_adapts_the_first_convolution(path, source, in_chans):
    model = Net(in_chans=in_chans)
    load_into(model, path, filter_fn)
    assert same(model, source, but=("stem.weight",)) == []
    expected = timm.models.adapt_input_conv(in_chans, source.stem.weight)
    assert torch.equal(model.stem.weight, expected)


def test_channels_that_nobody_asked_to_change_are_an_error(tmp_path):
    path = save(tmp_path / "gray.pth", authors_names(Net(in_chans=1)))
    refuses(Net(), path, match=r"stem.weight: got \(8, 1, 2, 2\), expected \(8, 3, 2, 2\)")


# --- what does not fit


def test_missing_extra_and_misshapen_are_all_reported(tmp_path, source):
    state = authors_names(source) | {"surprise": torch.ones(1), "norm.bias": torch.ones(8, 1)}
    del state["stem.bias"]
    message = refuses(Net(), save(tmp_path / "odd.pth", state), match="does not fit Net, nothing was loaded")
    assert "1 missing (stem.bias), 1 unexpected (surprise), 1 misshapen (norm.bias: got (8, 1)" in message


@pytest.mark.parametrize("name", sorted(Net().state_dict()))
def test_every_tensor_is_needed_and_every_shape_counts(tmp_path, source, name):
    state = source.state_dict()
    for change in ({}, {name: torch.ones(5, 5, 5)}):
        changed = {n: v for n, v in state.items() if n != name} | change
        word = "misshapen" if change else "missing"
        path = save(tmp_path / "x.pth", changed)
        refuses(Net(), path, match=rf"1 {word} \({re.escape(name)}", filter_fn=None)


def test_long_lists_are_cut(tmp_path, source):
    state = {f"extra{i}": torch.ones(1) for i in range(50)} | authors_names(source)
    message = refuses(Net(), save(tmp_path / "x.pth", state), match="50 unexpected")
    assert "and 46 more" in message and len(message) < 400


def test_another_width_is_recognised(tmp_path):
    path = save(tmp_path / "wide.pth", authors_names(Net(embed_dim=16)))
    refuses(Net(), path, match="looks like a model of embed_dim 16, this one has 8")


def test_another_depth_is_recognised(tmp_path):
    path = save(tmp_path / "deep.pth", authors_names(Net(depth=5)))
    refuses(Net(), path, match=r"6 unexpected .*it has 5 'layers' and the model 2")


def test_another_architecture_is_recognised(tmp_path):
    path = save(tmp_path / "other.pth", nn.Linear(2, 2).state_dict())
    refuses(Net(), path, match="none of this model's|another architecture", filter_fn=None)
    refuses(Net(), path, match="does not look like a checkpoint of Net.*KeyError: 'pos_embed'")


@pytest.mark.parametrize("returned", [None, 3, {"stem.weight": "not a tensor"}])
def test_filter_that_returns_nonsense(path, returned):
    refuses(Net(), path, match="converting its names failed", filter_fn=lambda state, model: returned)


def test_filter_may_change_its_dict(path, source):
    def emptying(state, model):
        out = filter_fn(state, model)
        state.clear()
        return out

    model = Net()
    load_into(model, path, emptying)
    assert same(model, source) == []


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    "wrong",
    [torch.ones(8, dtype=torch.complex64), torch.ones(8, dtype=torch.int8), torch.ones(8).to_sparse()],
)
def test_numbers_of_another_kind(tmp_path, source, wrong):
    path = save(tmp_path / "kind.pth", authors_names(source) | {"norm.bias": wrong})
    refuses(Net(), path, match="1 of another kind .norm.bias")


def test_model_without_memory(path):
    with torch.device("meta"):
        model = Net()
    with pytest.raises(CheckpointError, match="meta device"):
        load_into(model, path, filter_fn)


def test_unreadable_file_leaves_the_model(path):
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    refuses(Net(), path, match="truncated")


# --- timm's doors


def create(variant="net", pretrained=True, **kwargs):
    return build_model(Net, variant, pretrained, filter_fn, pretrained_cfg=kwargs.pop("cfg", CFG), **kwargs)


def test_timm_overlay_with_a_file(path, source):
    model = create(pretrained_cfg_overlay=dict(file=path))
    assert same(model, source) == []
    model = create(pretrained_cfg_overlay=dict(file=path), num_classes=3, in_chans=1, tokens=9)
    assert same(model, source, but=("head", "stem.weight", "pos_embed")) == []
    assert model.head.weight.shape == (3, 8)


def test_timm_overlay_takes_the_trained_weights_not_the_ema(tmp_path, source):
    ema = {name: value * 2 for name, value in authors_names(source).items()}
    path = save(tmp_path / "both.pth", authors_names(source), model_ema=ema)
    assert same(create(pretrained_cfg_overlay=dict(file=path)), source) == []


def test_timm_cfg_with_a_file_or_url(path, source):
    assert same(create(cfg=CFG | dict(file=path)), source) == []
    assert same(create(cfg=CFG | dict(url=Path(path).as_uri())), source) == []


def test_timm_file_errors_name_the_file(tmp_path, source):
    state = authors_names(source)
    del state["norm.weight"]
    path = save(tmp_path / "gap.pth", state)
    for num_classes in (7, 3):
        with pytest.raises(CheckpointError, match=rf"{re.escape(path)}.*1 missing \(norm.weight\)"):
            create(pretrained_cfg_overlay=dict(file=path), num_classes=num_classes)


def test_timm_hub_file_goes_through_the_safe_reader(path, source, monkeypatch):
    asked = []

    def download(repo_id, filename, **kwargs):
        asked.append((repo_id, filename))
        return path

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    monkeypatch.setattr("vimzoo.models.weights.hub.unreachable", lambda address: None)
    model = create(cfg=CFG | dict(hf_hub_id="someone/Net", hf_hub_filename="net.pth"), num_classes=3)
    assert asked == [("someone/Net", "net.pth")]
    assert same(model, source, but=("head",)) == []


def test_timm_state_dict_and_local_dir_are_checked_too(tmp_path, source):
    state = authors_names(source)
    assert same(create(pretrained_cfg_overlay=dict(state_dict=state)), source) == []
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    local = CFG | dict(source="local-dir", file=str(tmp_path))
    assert same(create(cfg=local, in_chans=1), source, but=("stem.weight",)) == []

    del state["norm.weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the given state_dict.*1 missing \(norm.weight\)"):
        create(pretrained_cfg_overlay=dict(state_dict=state), num_classes=3)
    with pytest.raises(CheckpointError, match=r"1 missing \(norm.weight\)"):
        create(cfg=local, num_classes=3)


def test_timm_without_pretrained_reads_nothing():
    create(pretrained=False, pretrained_cfg_overlay=dict(file="missing.pth"))
    with pytest.raises(CheckpointError, match=r"missing.pth: no such file"):
        create(pretrained_cfg_overlay=dict(file="missing.pth"))


def test_timm_overlay_still_behaves_as_this_module_assumes():
    """timm switches the hook off for a file in an overlay; if that changes, build_model can be simpler."""
    from timm.models._builder import resolve_pretrained_cfg

    cfg = PretrainedCfg(custom_load=True)
    assert resolve_pretrained_cfg("x", cfg.to_dict(), dict(file="f")).custom_load is False
