"""Every recorded answer of the official code of relatives, by the authors' calls: outputs, inner tensors, gradients."""

from pathlib import Path

import fill
import pytest
import timm
import torch
from test_vim_references import check_outputs, outputs_of
from torch import nn

from vimzoo.compat import efficient_vmamba, plain_mamba

REFERENCES = Path(__file__).parent / "references" / "peers"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
GATE_TOLERANCE = 1e-3
"""For the channel gates of EfficientVMamba-B, whose gradients float32 rounds this coarsely in the authors' code as in
ours: see `test_gates_of_efficient_vmamba_b_are_rounded_by_float32`."""
HEAVY = (
    "efficient_vmamba_base_224",
    "efficient_vmamba_tiny_224",
    "plain_mamba_l1_224",
    "plain_mamba_l2_224",
    "plain_mamba_l1_160x224",
)
REGISTERED = {
    "efficient_vmamba_tiny_224": "efficient_vmamba_tiny",
    "efficient_vmamba_base_224": "efficient_vmamba_base",
    "plain_mamba_l1_224": "plain_mamba_l1",
    "plain_mamba_l1_160x224": "plain_mamba_l1",
    "plain_mamba_l2_224": "plain_mamba_l2",
}


def params(names: list[str]) -> list:
    assert names
    return [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in names]


def names(pattern: str) -> list:
    return params(
        sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob(f"{pattern}.json.gz"))
    )


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def check_gradients(outputs: list[torch.Tensor], module: nn.Module, reference: dict) -> None:
    sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
    found = efficient_vmamba.official_gradients(module)
    norms = {name: g.double().norm().item() for name, g in found.items()}
    assert set(norms) == set(reference["grad_norm"])
    is_base = reference["num_params"] == 33_717_136
    for name, want in reference["grad_norm"].items():
        tolerance = GATE_TOLERANCE if is_base and ".se." in name else GRADIENT_TOLERANCE
        assert norms[name] == pytest.approx(want, rel=tolerance, abs=1e-12), name


def keeper(seen: dict[str, torch.Tensor]):
    """A function that keeps the output of a module under a label."""

    def keep(label: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.__setitem__(label, args[2]))

    return keep


def record_efficient(model: nn.Module) -> dict[str, torch.Tensor]:
    """As `record`, of an EfficientVMamba."""
    seen: dict[str, torch.Tensor] = {}
    keep = keeper(seen)
    keep("patch_embed", model.patch_embed)
    keep("layers.0.blocks.0", model.stages[0].blocks[0])
    keep("layers.0.blocks.0.op", model.stages[0].blocks[0].ss2d.out_proj)
    for i in range(3):
        keep(f"layers.{i}", model.stages[i + 1].downsample)
    keep("layers.3", model.stages[3])
    return seen


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    if "PlainMamba" not in reference["build"]:
        return eval(reference["build"], dict(vars(efficient_vmamba)))
    classes = reference["outputs"][0]["shape"][-1]

    def classifier(backbone: dict, *parts: object) -> nn.Module:
        return plain_mamba.ImageClassifier(backbone, head=dict(num_classes=classes))

    scope = dict(
        ImageClassifier=classifier, PlainMamba=dict, CustomAveragePooling=dict, LinearClsHead=list, fc=()
    )
    return eval(reference["build"], scope)


def record(model: nn.Module) -> dict[str, torch.Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs."""
    return record_efficient(model) if hasattr(model, "stages") else record_plain(model)


def record_plain(model: nn.Module) -> dict[str, torch.Tensor]:
    """As `record`, of a PlainMamba, whose maps the authors have as tokens."""
    seen: dict[str, torch.Tensor] = {}

    def keep(label: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.__setitem__(label, args[2].flatten(1, 2)))

    keep("backbone.patch_embed", model.patch_embed)
    for i, block in enumerate(model.blocks):
        keep(f"backbone.layers.{i}", block)
        keep(f"backbone.layers.{i}.mamba", block.mixer)
    return seen


@pytest.mark.parametrize("name", [*names("efficient_vmamba_*"), *names("plain_mamba_*")])
def test_model(name: str) -> None:
    reference = reference_of(name)
    model = build(reference).eval()
    model.load_state_dict(fill.state_dict(reference))
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    seen = record(model)
    outputs = outputs_of(model(fill.model_input(reference)))
    check_outputs(outputs, reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < OUTPUT_TOLERANCE, label
    check_gradients(outputs, model, reference)


@pytest.mark.slow
def test_gates_of_efficient_vmamba_b_are_rounded_by_float32() -> None:
    """Gradients in float64 are as far from ours in float32 as from the recorded ones; all others are closer."""
    reference = reference_of("efficient_vmamba_base_224")
    norms = {}
    for dtype in (torch.float32, torch.float64):
        model = build(reference).eval()
        model.load_state_dict(fill.state_dict(reference))
        output = model.to(dtype)(fill.model_input(reference).to(dtype))
        (output * fill.example_input(output.shape, 7).to(dtype)).sum().backward()
        found = efficient_vmamba.official_gradients(model).items()
        norms[dtype] = {name: gradient.double().norm().item() for name, gradient in found}
    exact = norms[torch.float64]

    def off(found: dict[str, float], gates: bool) -> float:
        names = [name for name in exact if (".se." in name) == gates]
        return max(abs(found[name] - exact[name]) / exact[name] for name in names)

    for found in (reference["grad_norm"], norms[torch.float32]):
        assert 3e-4 < off(found, gates=True) < GATE_TOLERANCE
        assert off(found, gates=False) < 2 * GRADIENT_TOLERANCE


def test_plain_mambas_backbone_takes_files_of_both_kinds() -> None:
    """Names with and without ``backbone.``, the maps of chosen blocks, and its tokens are the classifier's."""
    reference = reference_of("plain_mamba_micro_64")
    classifier = build(reference).eval()
    classifier.load_state_dict(fill.state_dict(reference))
    options = dict(img_size=64, embed_dims=32, num_layers=2, layers_with_dwconv=[0], layer_cfgs=LAYERS)
    backbone = plain_mamba.PlainMamba(out_indices=[0, 1], **options).eval()
    own = plain_mamba.official_state_dict(backbone)
    whole = fill.state_dict(reference)
    alone = {k.removeprefix("backbone."): v for k, v in whole.items() if k.startswith("backbone.")}
    assert set(own) - set(alone) == {"norm_layer0.weight", "norm_layer0.bias", *COUNTS}
    backbone.load_state_dict(own | alone)
    images = fill.model_input(reference)
    tokens, maps = backbone(images)
    torch.testing.assert_close(tokens, classifier.forward_features(images).flatten(1, 2))
    torch.testing.assert_close(maps[1], tokens.transpose(1, 2).unflatten(2, (4, 4)))
    assert maps[0].shape == (2, 32, 4, 4)


LAYERS = {"mamba_cfg": {"d_state": 8, "bias": True}}
COUNTS = {
    f"{part}.1.num_batches_tracked" for part in ("patch_embed.stem", "patch_embed.convs", "layers.0.dw")
}


@pytest.mark.parametrize("name", params(list(REGISTERED)))
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    counts = {key: torch.tensor(7) for key in reference.get("kept", {})}
    state = {f"module.module.{key}": value for key, value in (fill.state_dict(reference) | counts).items()}
    torch.save({"state_dict": state}, tmp_path / "checkpoint.ckpt")
    overlay = dict(file=str(tmp_path / "checkpoint.ckpt"))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    check_outputs([model(fill.model_input(reference))], reference)
