"""Every recorded answer of the official LocalMamba code, by the authors' calls: outputs, inner tensors, gradients."""

import re
from collections.abc import Callable
from pathlib import Path

import fill
import pytest
import timm
import torch
from test_vim_references import check_outputs, outputs_of
from test_vim_references import record as record_vim
from torch import nn

from vimzoo.compat import local_vim, local_vmamba
from vimzoo.models.local_vim import TINY_DIRECTIONS

REFERENCES = Path(__file__).parent / "references" / "local"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
HEAVY = re.compile(r"local_(vim|vssm)_(tiny|small)")
REGISTERED = {
    "local_vim_tiny": "local_vim_tiny",
    "local_vssm_tiny": "local_vmamba_tiny",
    "local_vim_tiny_search": "local_vim_tiny_search",
    "local_vim_tiny_wo_search": "local_vim_tiny_wo_search",
    "local_vssm_tiny_search": "local_vmamba_tiny_search",
    "local_vssm_small_search": "local_vmamba_small_search",
}
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("*.json.gz"))
SCOPE = {"local_vim": local_vim, "local_vmamba": local_vmamba, "MultiMamba": local_vim.MultiMamba}


def params(names: list[str]) -> list:
    return [pytest.param(name, marks=[pytest.mark.slow] if HEAVY.match(name) else []) for name in names]


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    call = reference["build"]
    if "shadowed" in call:
        options = dict(embed_dim=384, depth=20, rms_norm=True, residual_in_fp32=True, final_pool_type="mean")
        rope = dict(if_abs_pos_embed=True, if_rope=True, if_rope_residual=True)
        return local_vim.VisionMamba(directions=TINY_DIRECTIONS, **options, **rope)
    return eval(call, SCOPE)


def record(model: nn.Module) -> dict[str, torch.Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs."""
    if hasattr(model, "blocks"):
        return _record_vim(model)
    seen: dict[str, torch.Tensor] = {}

    def keep(label: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.__setitem__(label, args[2]))

    keep("patch_embed", model.patch_embed)
    keep("layers.0", model.stages[1].downsample)
    keep("layers.0.blocks.0", model.stages[0].blocks[0])
    keep("layers.0.blocks.0.op", model.stages[0].blocks[0].ss2d)
    keep("last_block", model.stages[-1].blocks[-1])
    return seen


def _record_vim(model: nn.Module) -> dict[str, torch.Tensor]:
    seen = record_vim(model)
    for i, block in enumerate(model.blocks):

        def projected(*args, label: str = f"layers.{i}.mixer.in_proj") -> None:
            seen[label] = args[2]

        block.mixer.in_proj.register_forward_hook(projected)
    return seen


def gradients(module: nn.Module) -> dict[str, float]:
    return {name: g.double().norm().item() for name, g in local_vim.official_gradients(module).items()}


def check_gradients(outputs: list[torch.Tensor], module: nn.Module, reference: dict) -> None:
    sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
    norms = gradients(module)
    assert set(norms) == set(reference["grad_norm"])
    for name, want in reference["grad_norm"].items():
        assert norms[name] == pytest.approx(want, rel=GRADIENT_TOLERANCE, abs=1e-12), name


def loaded(name: str) -> tuple[nn.Module, dict]:
    reference = reference_of(name)
    model = build(reference).eval()
    model.load_state_dict(fill.state_dict(reference))
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    return model, reference


@pytest.mark.parametrize("name", params([name for name in NAMES if not name.endswith("official")]))
def test_model(name: str) -> None:
    model, reference = loaded(name)
    seen = record(model)
    outputs = outputs_of(model(fill.model_input(reference)))
    check_outputs(outputs, reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < OUTPUT_TOLERANCE, label
    check_gradients(outputs, model, reference)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("official")])
def test_columns_of_maps_that_are_not_square_are_put_back_in_order(name: str) -> None:
    """The authors' code does not, which changes the output; up to there both compute the same."""
    model, reference = loaded(name)
    seen = record(model)
    output = model(fill.model_input(reference))
    assert fill.mismatch(seen["patch_embed"], reference["intermediates"]["patch_embed"]) < OUTPUT_TOLERANCE
    assert fill.mismatch(output, reference["outputs"][0]) > 1e-3


@pytest.mark.parametrize("name", params(list(REGISTERED)))
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    path = tmp_path / "checkpoint.ckpt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in fill.state_dict(reference).items()}}, path)
    overlay = dict(file=str(path))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    check_outputs([model(fill.model_input(reference))], reference)


@pytest.mark.parametrize(
    ("name", "create"),
    [
        ("local_vim_micro_64", lambda: timm.create_model("local_vim_tiny", embed_dim=64, **MICRO)),
        ("local_vssm_micro_64", lambda: timm.create_model("local_vmamba_tiny", **MICRO_STAGES)),
    ],
)
def test_checkpoint_file_with_rotary_tables_and_a_wrapper(
    name: str, create: Callable[[], nn.Module], tmp_path: Path
) -> None:
    reference = reference_of(name)
    tables = {"rope.freqs_cos": torch.zeros(16, 64), "rope.freqs_sin": torch.zeros(16, 64)}
    state = {**fill.state_dict(reference), **(tables if "vim" in name else {})}
    torch.save({"state_dict": state, "epoch": 299}, tmp_path / "checkpoint.ckpt")
    model = create().eval()
    model.load_pretrained(tmp_path / "checkpoint.ckpt")
    check_outputs([model(fill.model_input(reference))], reference)


MICRO = dict(
    img_size=64, depth=4, num_classes=10,
    directions=[
        ["h", "v_flip", "w7", "w7_flip"], ["h_flip", "w2_flip", "w7", "w7_flip"], ["h", "h_flip", "v", "w2"],
        ["h_flip", "v", "v_flip", "w2_flip"],
    ],
)  # fmt: skip
MICRO_STAGES = dict(
    dims=(32, 64, 128, 256), depths=(1, 1, 2, 1), num_classes=10,
    directions=[
        ["h", "h_flip", "w7", "w7_flip"], ["h_flip", "v_flip", "w2", "w2_flip"], ["h_flip", "v", "v_flip", "w2"],
        ["h", "w2_flip", "w7", "v"], ["h", "h_flip", "v", "v_flip"],
    ],
)  # fmt: skip
