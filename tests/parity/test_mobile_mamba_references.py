"""Every recorded answer of the MobileMamba authors' code: outputs, inner tensors, gradients, folded batch norms."""

from pathlib import Path

import fill
import pytest
import timm
import torch
from torch import Tensor, nn

from vimzoo.compat import mobile_mamba
from vimzoo.layers.wavelet import channel_split, haar, inverse_haar
from vimzoo.models.mobile_mamba.names import haar_filters

REFERENCES = Path(__file__).parent / "references" / "mobile_mamba"
TOLERANCE = 3e-5  # of the reference's standard deviation
PARAMETER_TOLERANCE = 2e-4
PUBLISHED_TOLERANCE = 5e-3
"""Of one parameter's gradient at published size: rounding across zero at a ReLU moves it by so much."""
TOTAL_TOLERANCE = 1e-4
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("mobile_mamba_*.json.gz"))
PUBLISHED = [name for name in NAMES if name.split("_")[2][0] in "tsb" and name.split("_")[2] != "train"]
HEAVY = (
    *PUBLISHED,
    "mobile_mamba_micro_96",
    "mobile_mamba_backbone_hot_96x160",
    "mobile_mamba_hot_distilled",
)
ROUNDING = 1e-3 * TOTAL_TOLERANCE
"""Gradients below this share of the largest, as a multiple of the tolerance, count by its measure."""
MODELS = ("mobile_mamba_t2_192", "mobile_mamba_s6_224", "mobile_mamba_b1_256", "mobile_mamba_hot_96x160")
REGISTERED = {
    "mobile_mamba_t2_192": "mobile_mamba_t2",
    "mobile_mamba_s6_224": "mobile_mamba_s6",
    "mobile_mamba_b1_256": "mobile_mamba_b1",
}


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    scope = dict(vars(mobile_mamba))
    if "out_indices=" in reference["build"]:  # of the same name in their code
        scope["MobileMamba"] = mobile_mamba.MobileMambaBackbone
    return eval(reference["build"], scope)


def record(model: nn.Module) -> dict[str, Tensor]:
    """Fills a dict with inner tensors ``(B, C, H, W)`` under the official module names while the model runs."""
    seen: dict[str, Tensor] = {}

    def keep(label: str, module: nn.Module, map: bool = True) -> None:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            seen[label] = output.permute(0, 3, 1, 2) if map else output

        module.register_forward_hook(hook)

    def keep_mixer(label: str, mixer: nn.Module) -> None:
        def joined(module: nn.Module, args: tuple, output: Tensor) -> None:
            parts = list(args[0].permute(0, 3, 1, 2).split(mixer.split, 1))
            for k, name in enumerate((f"{label}.global_op", f"{label}.local_op")):
                parts[k] = seen.get(name, parts[k])
            seen[f"{label}.proj:in"] = torch.cat(parts, 1)

        keep(label, mixer)
        mixer.register_forward_hook(joined)
        if mixer.local_op is not None:
            keep(f"{label}.local_op", mixer.local_op)
        if (part := mixer.global_op) is None:
            return
        name = f"{label}.global_op"
        keep(name, part)
        keep(f"{name}.global_atten", part.scan)
        part.scan.out_norm.register_forward_hook(
            lambda *args: seen.__setitem__(f"{name}.global_atten.out_norm:in", args[1][0].permute(0, 3, 1, 2))
        )
        part.conv.register_forward_hook(
            lambda *args: seen.update(
                {
                    f"{name}.wavelet_convs.0:in": args[1][0],
                    f"{name}.wavelet_scale.0": args[2] * part.wavelet_scale,
                }
            )
        )

    keep("patch_embed", model.patch_embed)
    for i, stage in enumerate(model.stages):
        keep(f"blocks{i + 1}", stage)
        first = 3 if i > 0 else 0
        if first:
            stage.downsample.conv3.register_forward_hook(
                lambda *args, i=i: seen.__setitem__(f"blocks{i + 1}.1", args[2].permute(0, 3, 1, 2))
            )
        for j, block in enumerate(stage.blocks):
            keep(f"blocks{i + 1}.{j + first}", block)
            keep_mixer(f"blocks{i + 1}.{j + first}.mixer.m.attn", block.mixer)
    return seen


def check_gradients(outputs: list[Tensor], module: nn.Module, reference: dict, tolerance: float) -> None:
    sum((output * fill.example_input(output.shape, 7, output.dtype)).sum() for output in outputs).backward()
    norms = {name: g.double().norm().item() for name, g in mobile_mamba.official_gradients(module).items()}
    wanted = reference["grad_norm"]
    assert set(norms) == set(wanted)
    total, expected = (sum(v**2 for v in values.values()) ** 0.5 for values in (norms, wanted))
    assert total == pytest.approx(expected, rel=TOTAL_TOLERANCE)
    floor = ROUNDING / TOTAL_TOLERANCE * max(wanted.values())
    for name, want in wanted.items():
        assert abs(norms[name] - want) <= tolerance * max(want, floor), name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in NAMES]
)
def test_answers(name: str) -> None:
    reference = reference_of(name)
    module = build(reference).eval()
    module.load_state_dict(fill.state_dict(reference))
    own = mobile_mamba.official_state_dict(module)
    shapes = {**reference["params"], **reference["kept"]}
    assert {key: list(value.shape) for key, value in own.items()} == shapes
    filters = sum(value.numel() for key, value in own.items() if key.endswith("wt_filter"))
    assert sum(p.numel() for p in module.parameters()) + filters == reference["num_params"]
    if "fused_params" in reference:
        mobile_mamba.replace_batchnorm(module)
        own = mobile_mamba.official_state_dict(module)
        assert {key: list(value.shape) for key, value in own.items()} == reference["fused_params"]
        for key, want in reference["fused_values"].items():
            assert fill.mismatch(own[key], want) < TOLERANCE, key
    seen = record(module)
    x = fill.model_input(reference)
    if "m.train()" in reference.get("call", ""):
        # torch sums batch statistics of maps with channels last in another order, which float32 rounds by 3e-5
        module, x = module.train().double(), x.double()
    answer = module(x)
    outputs = list(answer) if isinstance(answer, tuple) else [answer]
    for output, want in zip(outputs, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < TOLERANCE
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < TOLERANCE, label
    if "grad_norm" in reference:
        check_gradients(
            outputs, module, reference, PUBLISHED_TOLERANCE if name in PUBLISHED else PARAMETER_TOLERANCE
        )


def test_haar_and_splits() -> None:
    recorded = fill.load(REFERENCES / "ops_haar_and_splits.json.gz")
    assert torch.allclose(haar_filters(1).squeeze(1), torch.tensor(recorded["filters"]), atol=1e-7)
    for case in recorded["cases"]:
        batch, channels, height, width = case["shape"]
        x = fill.example_input(case["shape"], 40)
        bands = haar(x.permute(0, 2, 3, 1)).permute(0, 3, 4, 1, 2)
        assert fill.mismatch(bands, case["forward"]) < TOLERANCE
        y = fill.example_input((batch, channels, 4, height // 2, width // 2), 41)
        back = inverse_haar(y.permute(0, 3, 4, 1, 2), height, width).permute(0, 3, 1, 2)
        assert fill.mismatch(back, case["inverse"]) < TOLERANCE
    for dim, global_ratio, local_ratio, *want in recorded["splits"]:
        assert list(channel_split(dim, global_ratio, local_ratio)) == want


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 6)])
def test_the_transform_inverts(size: tuple[int, int]) -> None:
    x = fill.example_input((2, *size, 3), 1)
    assert torch.allclose(inverse_haar(haar(x), *size), x)


def test_other_filters_are_named() -> None:
    model = mobile_mamba.MobileMamba(embed_dim=[32, 32, 32], depth=[1, 1, 1])
    state = mobile_mamba.official_state_dict(model)
    name = "blocks1.0.mixer.m.attn.global_op.wt_filter"
    state[name] = torch.ones_like(state[name])
    with pytest.raises(ValueError, match=f"{name}: expected the filters of the Haar transform"):
        model.load_state_dict(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTERED)
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: files as the authors save them, by timm's create_model."""
    reference = reference_of(name)
    state = fill.state_dict(reference)
    state |= {
        key: haar_filters(shape[0] // 4) if shape else torch.tensor(0)
        for key, shape in reference["kept"].items()
    }
    for content in (state, {"net": state, "net_E": state}):
        torch.save(content, tmp_path / "net.pth")
        overlay = dict(file=str(tmp_path / "net.pth"))
        model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
        assert fill.mismatch(model(fill.model_input(reference)), reference["outputs"][0]) < TOLERANCE
