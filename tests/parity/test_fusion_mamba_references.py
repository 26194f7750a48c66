"""Every recorded answer of the official code of both FusionMambas: outputs, inner tensors, gradients."""

from collections.abc import Iterable
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
FLOAT32_TOLERANCE = 5e-3
"""For gradients of two networks in float32, which agree to `GRADIENT_TOLERANCE` in float64. One of the million inputs
of the spectral network's leaky ReLUs lies within rounding of 0, and the gradients of all layers before it depend on its
sign. In the full multimodal network a gradient of 1e-3 is a sum of terms that cancel, beside gradients of 3e3."""
SPECTRAL, MICRO, FULL = "psrben_fusionmamba_u2net_64", "millie_fusionmamba_micro", "millie_fusionmamba"
NAMES = (SPECTRAL, MICRO, FULL)
REGISTERED = {SPECTRAL: "spectral_fusion_mamba", FULL: "multimodal_fusion_mamba"}
DTYPES = {SPECTRAL: "float64", FULL: "float64"}  # for the sake of gradients, see `FLOAT32_TOLERANCE`
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


def build(reference: dict) -> Any:
    return eval(reference["build"], {"U2Net": fusion_mamba.U2Net, "VSSM_Fusion": fusion_mamba.VSSM_Fusion})


def loaded(reference: dict, dtype: torch.dtype = torch.float32) -> Any:
    model = build(reference).eval().to(dtype)
    model.load_state_dict(fill.state_dict(reference, dtype))
    return model


def answer(model: nn.Module, reference: dict, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return eval(reference["call"], {"m": model, "x": fill.model_input(reference, dtype)})


def recorded(model: Any, labels: Iterable[str]) -> dict[str, torch.Tensor]:
    """What parts give in the calls that follow, as the recordings hold it; filled as they are called."""
    seen: dict[str, torch.Tensor] = {}
    if isinstance(model, MultimodalFusionMamba):
        parts = next(parts for parts in (PARTS[MICRO], PARTS[FULL]) if set(labels) == set(parts))
        pictures: list[torch.Tensor] = []

        def join(stem: nn.Module, args: Any, output: torch.Tensor) -> None:
            pictures.append(output.detach())
            if len(pictures) == 2:  # the first join has no effect, so the model does not compute it
                with torch.no_grad():
                    model.joins[0](*pictures)

        for stem in model.stems:
            stem.register_forward_hook(join)
    else:
        parts = PARTS[SPECTRAL]

    def keep(label: str, output: Any) -> None:
        if isinstance(output, tuple):  # a block's maps, and what joins them
            output = output[2].permute(0, 3, 1, 2)
        elif label in ("stage0.fm.spa_mamba_layers.0", "stage0.fm.spa_cross_mamba"):
            output = output.flatten(1, 2)
        seen[label] = second_of(output) if isinstance(model, MultimodalFusionMamba) else output

    for label, path in parts.items():
        model.get_submodule(path).register_forward_hook(
            lambda *args, label=label: keep(label, args[2].detach() if torch.is_tensor(args[2]) else args[2])
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
        (SPECTRAL, FLOAT32_TOLERANCE),
        (MICRO, GRADIENT_TOLERANCE),
        pytest.param(FULL, FLOAT32_TOLERANCE, marks=pytest.mark.slow),
    ],
)
def test_model(name: str, tolerance: float) -> None:
    reference = reference_of(name)
    model = loaded(reference)
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    own = fusion_mamba.official_state_dict(model)
    assert {key: list(value.shape) for key, value in own.items()} == reference["params"]
    assert set(PARTS[name]) == set(reference["intermediates"])
    seen = recorded(model, reference["intermediates"])
    output = answer(model, reference)
    check_outputs([output], reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < OUTPUT_TOLERANCE, label
    check_gradients(output, model, reference, tolerance)


@pytest.mark.slow  # the scan in float64 has no kernel
@pytest.mark.parametrize("name", DTYPES)
def test_gradients_in_float64(name: str) -> None:
    reference = reference_of(name)
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
