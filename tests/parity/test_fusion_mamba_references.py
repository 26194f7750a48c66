"""Every recorded answer of the official code of both FusionMambas: outputs, inner tensors, gradients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fill
import pytest
import torch
from test_vim_references import check_outputs
from torch import nn

from vimzoo.compat import fusion_mamba
from vimzoo.models.fusion_mamba import MultimodalFusionMamba, SpectralFusionMamba

REFERENCES = Path(__file__).parent / "references" / "peers"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
KINK_TOLERANCE = 5e-3
"""For gradients of the spectral network in float32: one of its million inputs of leaky ReLUs lies within rounding of 0,
and the gradients of all layers before it depend on its sign. In float64 they agree to `GRADIENT_TOLERANCE`."""
SPECTRAL, MICRO, FULL = "psrben_fusionmamba_u2net_64", "millie_fusionmamba_micro", "millie_fusionmamba"
PARTS = {
    SPECTRAL: {
        "stage0.fm.spa_mamba_layers.0": "blocks.0.pan",
        "stage0.fm.spa_cross_mamba": "blocks.0.pan_guided",
        "stage4": "blocks.4",
        "spe_attn": "band_gate",
    },
    MICRO: {
        "layers.0.blocks.0.op": "stages.0.blocks.0.ss2d",
        "layers.0.blocks.0": "stages.0.blocks.0",
        "layers.0": "stages.1.downsample",
        "Cross_block.0": "joins.0",
        "layers_up.1": "up_stages.1",
    },
}
PARTS[FULL] = {**PARTS[MICRO], "layers_up.3": "up_stages.3"}
del PARTS[FULL]["layers_up.1"]


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def loaded(reference: dict, dtype: torch.dtype = torch.float32) -> Any:
    scope = {"U2Net": fusion_mamba.U2Net, "VSSM_Fusion": fusion_mamba.VSSM_Fusion}
    model = eval(reference["build"], scope).eval().to(dtype)
    model.load_state_dict(fill.state_dict(reference, dtype))
    return model


def answer(model: nn.Module, reference: dict, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return eval(reference["call"], {"m": model, "x": fill.model_input(reference, dtype)})


def watch(model: nn.Module, parts: Mapping[str, str]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for label, path in parts.items():
        model.get_submodule(path).register_forward_hook(
            lambda *args, label=label: seen.__setitem__(label, args[2])
        )
    return seen


def check_gradients(output: torch.Tensor, model: nn.Module, reference: dict, tolerance: float) -> None:
    (output * fill.example_input(output.shape, 7, output.dtype)).sum().backward()
    found = fusion_mamba.official_gradients(model)
    assert set(found) == set(reference["grad_norm"])
    for key, want in reference["grad_norm"].items():
        assert found[key].double().norm().item() == pytest.approx(want, rel=tolerance, abs=1e-12), key


def second_of(x: torch.Tensor) -> torch.Tensor:
    """The half of a batch of both pictures' maps that is the second's; recordings hold the second call."""
    return x.chunk(2)[1] if x.shape[0] == 2 else x


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        (SPECTRAL, KINK_TOLERANCE),
        (MICRO, GRADIENT_TOLERANCE),
        pytest.param(FULL, GRADIENT_TOLERANCE, marks=pytest.mark.slow),
    ],
)
def test_model(name: str, tolerance: float) -> None:
    reference = reference_of(name)
    model = loaded(reference)
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    own = fusion_mamba.official_state_dict(model)
    assert {key: list(value.shape) for key, value in own.items()} == reference["params"]
    assert set(PARTS[name]) == set(reference["intermediates"])
    seen = watch(model, PARTS[name])
    output = answer(model, reference)
    check_outputs([output], reference)
    if name == SPECTRAL:
        for label in ("stage0.fm.spa_mamba_layers.0", "stage0.fm.spa_cross_mamba"):
            seen[label] = seen[label].flatten(1, 2)
        seen["stage4"] = seen["stage4"][2].permute(0, 3, 1, 2)
    else:
        pictures = fill.model_input(reference)
        with torch.no_grad():  # the first join has no effect, so the model does not compute it
            stems = (stem(pictures[:, i : i + 1]) for i, stem in enumerate(model.stems))
            seen["Cross_block.0"] = model.joins[0](*stems)
        seen = {label: second_of(x) for label, x in seen.items()}
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < OUTPUT_TOLERANCE, label
    check_gradients(output, model, reference, tolerance)


@pytest.mark.slow  # the scan in float64 has no kernel
def test_gradients_of_the_spectral_network_in_float64() -> None:
    reference = reference_of(SPECTRAL)
    model = loaded(reference, torch.float64)
    check_gradients(answer(model, reference, torch.float64), model, reference, GRADIENT_TOLERANCE)


def small_spectral(**options: Any) -> SpectralFusionMamba:
    return SpectralFusionMamba(**{"dim": 8, "in_chans": 3, "d_state": 2, **options}).eval()


def small_multimodal(**options: Any) -> MultimodalFusionMamba:
    return MultimodalFusionMamba(
        **{"depths": (1, 1), "decoder_depths": (1, 1), "dims": (8, 16), **options}
    ).eval()


CASES = {
    "spectral": (small_spectral, (2, 3, 3, 5), (2, 1, 12, 20)),
    "multimodal": (small_multimodal, (2, 1, 24, 16), (2, 1, 24, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_inference_batches_and_bfloat16_agree(case: str) -> None:
    make, *shapes = CASES[case]
    torch.manual_seed(0)
    model: Any = make()
    images = tuple(torch.randn(*shape) for shape in shapes)
    with torch.no_grad():
        output = model(*images)
        assert output.shape == (2, shapes[0][1], *shapes[1][2:])
        torch.testing.assert_close(
            torch.cat([model(*(x[i : i + 1] for x in images)) for i in (0, 1)]), output
        )
        half = model.to(torch.bfloat16)(*(x.to(torch.bfloat16) for x in images))
    assert half.dtype == torch.bfloat16
    assert (half.float() - output).std() < 0.05 * output.std()


@pytest.mark.slow  # torch.export takes half a minute for the spectral network
@pytest.mark.parametrize("case", CASES)
def test_the_exported_network_gives_the_same(case: str) -> None:
    make, *shapes = CASES[case]
    model, images = make(), tuple(torch.randn(*shape) for shape in shapes)
    exported = torch.export.export(model, images).module()
    torch.testing.assert_close(exported(*images), model(*images))


@pytest.mark.parametrize("case", CASES)
def test_training_reaches_every_parameter_that_asks_for_it(case: str) -> None:
    make, *shapes = CASES[case]
    model: Any = make().train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(*(torch.randn(*shape) for shape in shapes)).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter) != parameter.requires_grad, name


MADE = {
    "spectral": lambda: fusion_mamba.U2Net(8, ms_dim=3),
    "multimodal": lambda: fusion_mamba.VSSM_Fusion([1, 1], [1, 1], [8, 16], [16, 8]),
}


@pytest.mark.parametrize("case", MADE)
def test_state_dicts_go_there_and_back(case: str) -> None:
    model, again = MADE[case](), MADE[case]()
    theirs = fusion_mamba.official_state_dict(model)
    again.load_state_dict(theirs)
    found = again.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    again.load_state_dict(model.state_dict())  # our own names, too
    gone = next(iter(theirs))
    with pytest.raises(RuntimeError, match=gone):
        again.load_state_dict({name: value for name, value in theirs.items() if name != gone})


def test_wrong_images_are_named() -> None:
    model = small_spectral()
    x, guide = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"x: expected images \(B, 3, H, W\), got shape \(1, 2, 4, 4\)"):
        model(x[:, :2], guide)
    with pytest.raises(
        ValueError, match="guide: expected 1 images of 16 x 16 pixels, 4 times those of x, got 1 of 8 x 8"
    ):
        model(x, guide[:, :, :8, :8])
    with pytest.raises(TypeError, match="guide: expected a tensor"):
        model(x, None)
    with pytest.raises(ValueError, match="guide: expected height and width in multiples of 4, got 6 x 8"):
        small_spectral(scale=2)(torch.zeros(1, 3, 3, 4), torch.zeros(1, 1, 6, 8))
    with pytest.raises(ValueError, match="in_chans: expected a positive whole number"):
        small_spectral(in_chans=0)


def test_wrong_pictures_are_named() -> None:
    model = small_multimodal()
    picture = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="other: expected the shape of x"):
        model(picture, picture[:, :, :8])
    with pytest.raises(
        ValueError, match=r"other: expected pictures \(B, 1, H, W\), got shape \(1, 3, 16, 16\)"
    ):
        model(picture, picture.expand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="x: expected height and width in multiples of 8, got 12 x 16"):
        model(picture[:, :, :12], picture[:, :, :12])
    with pytest.raises(ValueError, match="other: expected a floating-point tensor"):
        model(picture, picture.long())
    with pytest.raises(ValueError, match="expected one positive number per stage each"):
        small_multimodal(depths=(1, 1, 1))
    with pytest.raises(ValueError, match="dims_decoder"):
        fusion_mamba.VSSM_Fusion([1, 1], [1, 1], [8, 16], [8, 16])
    with pytest.raises(ValueError, match="in_channel=3: expected 1"):
        fusion_mamba.VSSM_Fusion(in_channel=3)
