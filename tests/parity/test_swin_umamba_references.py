"""Every recorded answer of the Swin-UMamba authors' code: outputs, inner maps, gradients, and what is loaded."""

from pathlib import Path

import fill
import pytest
import torch
from torch import Tensor, nn

from vimzoo.compat import swin_umamba
from vimzoo.layers import MapExpand
from vimzoo.models.swin_umamba.layers import ConvBlock, UpBlock

REFERENCES = Path(__file__).parent / "references" / "swin_umamba"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
INNER_TOLERANCE = 5e-5
GRADIENT_TOLERANCE = 1e-4
ROUNDING = 1e-6  # of the largest gradient norm
REGISTERED = {"swin_umamba_64": "swin_umamba", "swin_umamba_d_64": "swin_umamba_d"}
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("*.json.gz"))
MODELS = [name for name in NAMES if not name.startswith(("load_", "block_"))]
QUICK = ("micro_d_64_hot", "micro_d_64_dstate_none")


def build(reference: dict) -> nn.Module:
    return eval(reference["build"], dict(vars(swin_umamba))).eval()


def record(model: nn.Module) -> dict[str, Tensor]:
    """Fills a dict with outputs of inner modules under the authors' names while the model runs."""
    seen: dict[str, Tensor] = {}

    def keep(label: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.__setitem__(label, args[2]))

    encoder, prefix = getattr(model, "encoder", model), "vssm_encoder." if hasattr(model, "encoder") else ""
    keep(f"{prefix}patch_embed", encoder.patch_embed)
    keep(f"{prefix}layers.0.blocks.0.self_attention", encoder.stages[0].blocks[0].ss2d)
    for i, stage in enumerate(encoder.stages):
        keep(f"{prefix}layers.{i}", stage)
        keep(f"{prefix}downsamples.{i - 1}", stage.downsample)
    if hasattr(model, "stem"):
        keep("stem", model.stem)
        for i, block in enumerate(model.skips):
            keep(f"encoder{i + 1}", block)
        for i, up in enumerate(model.ups):
            keep(f"decoder{6 - i}", up)
        keep("decoder1", model.final)
    elif prefix:
        for i, up in enumerate(model.ups):
            keep(f"decoder.expand_layers.{i}", up.expand)
            keep(f"decoder.concat_back_dim.{i}", up.join)
            keep(f"decoder.stages.{i}", up.blocks)
            keep(f"decoder.stages.{i}.blocks.0.self_attention", up.blocks[0].ss2d)
        keep(f"decoder.expand_layers.{len(model.ups)}", model.final)
    return seen


def check_gradients(model: nn.Module, outputs: list[Tensor], wanted: dict[str, float]) -> None:
    sum((y * fill.example_input(y.shape, 7, y.dtype)).sum() for y in outputs if y.requires_grad).backward()  # type: ignore[union-attr]
    found = swin_umamba.official_gradients(model)
    assert set(wanted) <= set(found)
    assert set(found) - set(wanted) <= {"stem.0.bias"}  # zero, as it stands before an instance norm
    for label, want in wanted.items():
        norm = found[label].double().norm().item()
        assert abs(norm - want) <= GRADIENT_TOLERANCE * want + ROUNDING * max(wanted.values()), label


def params(names: list[str], quick: tuple[str, ...]) -> list:
    assert names
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", params(MODELS, (*QUICK, *(n for n in MODELS if "encoder" in n))))
def test_answers(name: str) -> None:
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    model = build(reference)
    assert sum(parameter.numel() for parameter in model.parameters()) == reference["num_params"]
    state = swin_umamba.official_state_dict(model)
    assert set(state) == set(reference["params"]) | set(reference["kept"])
    assert {key: list(state[key].shape) for key in reference["params"]} == reference["params"]
    kept = {key: state[key] for key in reference["kept"]}
    model.load_state_dict({**fill.state_dict(reference), **kept})
    seen = record(model)
    with torch.set_grad_enabled("grad_norm" in reference):
        outputs = model(fill.model_input(reference))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    assert len(outputs) == len(reference["outputs"])
    for output, want in zip(outputs, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < OUTPUT_TOLERANCE
    assert set(reference["intermediates"]) <= set(seen)
    for label, probe in reference["intermediates"].items():
        assert fill.mismatch(seen[label], probe) < INNER_TOLERANCE, label
    if wanted := reference.get("grad_norm"):
        try:
            check_gradients(model, outputs, wanted)
        except (
            AssertionError
        ):  # a value near the kink of a LeakyReLU has two slopes in float32: the signs of float64
            model = model.double()
            model.zero_grad()
            outputs = model(fill.model_input(reference, torch.float64))
            check_gradients(model, outputs if isinstance(outputs, list) else [outputs], wanted)


BLOCKS = {
    "block_final_patch_expand_x4_d16": lambda: MapExpand(16, 16, 4),
    "block_patch_expand_d32": lambda: MapExpand(32, 16),
    "block_unetr_basic_c5_8": lambda: ConvBlock(5, 8),
    "block_unetr_basic_c8_8": lambda: ConvBlock(8, 8),
    "block_unetr_up_c16_8": lambda: UpBlock(16, 8),
}
OURS = (
    ("transp_conv.conv.", "expand."), ("conv_block.", "block."), ("layer.", ""), (".conv.", "."),
    ("conv3.", "shortcut."), ("expand.weight", "expand.weight"),
)  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    module = BLOCKS[name]()
    state = {}
    for label, value in fill.state_dict(reference).items():
        for theirs, ours in OURS:
            label = label.replace(theirs, ours)
        state["proj.weight" if isinstance(module, MapExpand) and label == "expand.weight" else label] = value
    module.load_state_dict(state)
    x = fill.model_input(reference)
    if isinstance(module, UpBlock):
        output = module(x, fill.example_input((2, 8, 12, 10), 3))
    else:
        output = module(x.permute(0, 2, 3, 1) if isinstance(module, MapExpand) else x)
    assert fill.mismatch(output, reference["outputs"][0]) < OUTPUT_TOLERANCE
    (output * fill.example_input(output.shape, 7)).sum().backward()
    norms = sorted(parameter.grad.double().norm().item() for parameter in module.parameters())
    assert norms == pytest.approx(sorted(reference["grad_norm"].values()), rel=GRADIENT_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["first", "later"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("load_")])
def test_loading_a_vmamba(name: str, generation: str, tmp_path: Path) -> None:
    """What the authors' loader takes from VMamba-T, also from a file with the names of later releases."""
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    checkpoint = {key: fill.fill(key, shape) for key, shape in reference["checkpoint"].items()}
    if generation == "later":
        checkpoint = {
            key.replace("ln_1.", "norm.").replace("self_attention.", "op."): value
            for key, value in checkpoint.items()
        }
    torch.save({reference["wrapper"]: checkpoint}, tmp_path / "vmamba.pth")
    model = build(reference)
    own = {key: fill.fill(f"own.{key}", shape) for key, shape in reference["params"].items()}
    model.load_state_dict(own, strict=False)
    assert swin_umamba.load_pretrained_ckpt(model, str(tmp_path / "vmamba.pth")) is model
    with torch.no_grad():
        output = model(fill.model_input(reference))
    assert fill.mismatch(output, reference["outputs"][0]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("option", [{"drop_rate": 0.1}, {"norm_layer": torch.nn.BatchNorm2d}], ids=str)
def test_options_that_the_encoder_lacks_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        swin_umamba.VSSMEncoder(depths=(1, 1), dims=8, **option)
