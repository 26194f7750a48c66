"""Every recorded answer of the official VMamba code, by the authors' own calls: models, gradients, ops."""

import re
from pathlib import Path

import fill
import pytest
import timm
import torch
from torch import nn

from vimzoo.compat import vmamba
from vimzoo.layers.ss2d import SCANS

REFERENCES = Path(__file__).parent / "references" / "vmamba"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
# float64 and float32 of the official code itself differ by 2.3e-5 inside the cascade with a large scan
CASCADE_TOLERANCE = 6e-5
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
HEAVY = ("vanilla_vmamba_base_224", "vmamba_base_s2l15_224", "vmamba_small_m2_224", "vmamba_small_s1l20_224")
REGISTERED = {
    "vanilla_vmamba_tiny_96": "vmamba_tiny_v0",
    "vanilla_vmamba_small_96": "vmamba_small_v0",
    "vanilla_vmamba_base_224": "vmamba_base_v0",
    "vmamba_tiny_s1l8_96": "vmamba_tiny_s1l8",
    "vmamba_tiny_s2l5_96": "vmamba_tiny_s2l5",
    "vmamba_tiny_m2_224": "vmamba_tiny_m2",
    "vmamba_small_m2_224": "vmamba_small_m2",
    "vmamba_small_s1l20_224": "vmamba_small_s1l20",
    "vmamba_base_s2l15_224": "vmamba_base_s2l15",
}
MODELS = sorted(
    path.name.removesuffix(".json.gz")
    for path in REFERENCES.glob("*.json.gz")
    if not path.name.startswith("ops_")
)


def params(names) -> list:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in names]


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def record(model: nn.Module) -> dict[str, torch.Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs.

    The authors' stages end with the downsampling, ours begin with it; their maps have the norm's layout.
    """
    seen: dict[str, torch.Tensor] = {}

    def keep(label: str, module: nn.Module) -> None:
        def hook(module, args, output):
            seen[label] = output.permute(0, 3, 1, 2) if model.channel_first else output

        module.register_forward_hook(hook)

    keep("patch_embed", model.patch_embed)
    for i, stage in enumerate(model.stages):
        keep(f"layers.{i}.blocks", stage.blocks)
        following = model.stages[i + 1].downsample if i + 1 < len(model.stages) else stage
        keep(f"layers.{i}", following)
        for j, block in enumerate(stage.blocks):
            keep(f"layers.{i}.blocks.{j}", block)
            if block.ss2d is not None:
                keep(f"layers.{i}.blocks.{j}.op", block.ss2d)
    return seen


def check_outputs(outputs: list[torch.Tensor], reference: dict) -> None:
    assert len(outputs) == len(reference["outputs"])
    for output, want in zip(outputs, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < OUTPUT_TOLERANCE


def check_gradients(outputs: list[torch.Tensor], module: nn.Module, reference: dict) -> None:
    sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
    norms = {name: g.double().norm().item() for name, g in vmamba.official_gradients(module).items()}
    assert set(norms) == set(reference["grad_norm"])
    for name, want in reference["grad_norm"].items():
        assert norms[name] == pytest.approx(want, rel=GRADIENT_TOLERANCE, abs=1e-12), name


@pytest.mark.parametrize("name", params(MODELS))
def test_model(name: str) -> None:
    reference = reference_of(name)
    model = eval(reference["build"], dict(vars(vmamba))).eval()
    model.load_state_dict(fill.state_dict(reference))
    seen = record(model)
    result = model(fill.model_input(reference))
    outputs = list(result) if isinstance(result, list) else [result]
    check_outputs(outputs, reference)
    tolerance = CASCADE_TOLERANCE if "052dc" in name and "hot" in name else OUTPUT_TOLERANCE
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < tolerance, label
    if reference.get("grad_norm"):
        check_gradients(outputs, model, reference)


@pytest.mark.parametrize("name", params(REGISTERED))
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": fill.state_dict(reference)}, path)
    overlay = dict(file=str(path))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    outputs = [model(fill.model_input(reference))]
    check_outputs(outputs, reference)
    if reference.get("grad_norm"):
        check_gradients(outputs, model, reference)


def first_release(name: str) -> str:
    """A name of the classification code as the first release had it."""
    name = re.sub(r"\.blocks\.(\d+)\.norm\.", r".blocks.\1.ln_1.", name)
    name = re.sub(r"\.op\.", ".self_attention.", name).replace("classifier.", "")
    return name.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")


def one_by_one_convolution(name: str, value: torch.Tensor) -> torch.Tensor:
    """Linear layers as channel-first checkpoints store them."""
    linear = re.search(r"(in_proj|out_proj|fc1|fc2|reduction)\.weight$", name)
    return value[..., None, None] if linear else value


@pytest.mark.parametrize("name", ("vmamba_micro_v0", "vmamba_micro_pev1_ln2d"))
@pytest.mark.parametrize("change", ("first release", "1 x 1 convolutions"))
def test_older_spellings(name: str, change: str) -> None:
    reference = reference_of(name)
    state = fill.state_dict(reference)
    if change == "first release":
        state = {first_release(key): value for key, value in state.items()}
    else:
        state = {key: one_by_one_convolution(key, value) for key, value in state.items()}
    model = eval(reference["build"], dict(vars(vmamba))).eval()
    model.load_state_dict(state)
    check_outputs([model(fill.model_input(reference))], reference)


def test_single_file_takes_the_classification_names() -> None:
    """And what it then writes back is in those names."""
    reference = reference_of("single_file_micro_v1_ln_64")
    model = eval(reference["build"], dict(vars(vmamba)))
    model.load_state_dict(fill.state_dict(reference))
    single = vmamba.official_state_dict(model)
    assert set(single) == set(reference["params"])
    assert all(torch.equal(single[key], value) for key, value in fill.state_dict(reference).items())
    other = eval(reference["build"], dict(vars(vmamba))).eval()
    classification = vmamba.official_state_dict(other)
    assert "layers.0.blocks.0.op.x_proj_weight" in classification
    other.load_state_dict(model.state_dict())
    check_outputs([other(fill.model_input(reference))], reference)


def test_scan_orders() -> None:
    orders = fill.load(REFERENCES / "ops_scan_orders.json.gz")["orders"]
    names = {"cross2d": "cross", "unidi": "unidirectional", "bidi": "bidirectional"}
    checked = 0
    for size, by_name in orders.items():
        height, width = map(int, size.split("x"))
        for official, ours in names.items():
            if official in by_name:
                walked = [path.tokens(height, width).tolist() for path in SCANS[ours]]
                assert walked == by_name[official], (size, official)
                checked += 1
    assert checked > 5


def check_op(inputs: dict[str, torch.Tensor], seed: int, call, case: dict) -> None:
    """Output and gradients of one recorded case."""
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    out = call(**leaves)
    assert fill.mismatch(out, case["out"]) < OUTPUT_TOLERANCE
    (out * fill.example_input(out.shape, seed)).sum().backward()
    assert set(case["grads"]) == set(leaves)
    for name, want in case["grads"].items():
        assert fill.mismatch(leaves[name].grad, want) < GRADIENT_TOLERANCE, name


def cases(name: str) -> list:
    def flat(case: dict) -> str:
        return "-".join(f"{k}={v}" for k, v in case.items() if not isinstance(v, dict))

    found = fill.load(REFERENCES / f"{name}.json.gz")["cases"]
    return [pytest.param(case, id=flat(case)) for case in found]


@pytest.mark.parametrize("case", cases("ops_cross_scan"))
def test_cross_scan(case: dict) -> None:
    options = {k: v for k, v in case.items() if not isinstance(v, dict)}
    each = options.get("one_by_one", False)
    seed = 15 if each else 11
    batch, height, width, dim = 2, 5, 7, 3
    split = (batch, 4, dim, height, width), (batch, height, width, 4, dim)
    plain = (batch, dim, height, width), (batch, height, width, dim)
    x = fill.example_input((split if each else plain)[not options["in_channel_first"]], seed).requires_grad_()
    y = vmamba.cross_scan_fn(x, **options)
    assert fill.mismatch(y, case["scan"]) == 0
    (y * fill.example_input(y.shape, seed + 1)).sum().backward()
    assert fill.mismatch(x.grad, case["scan_grad"]) < 1e-6
    ys = fill.example_input(split[not options["out_channel_first"]], seed + 2).requires_grad_()
    merged = vmamba.cross_merge_fn(ys, **options)
    assert fill.mismatch(merged, case["merge"]) < 1e-6
    (merged * fill.example_input(merged.shape, seed + 3)).sum().backward()
    assert fill.mismatch(ys.grad, case["merge_grad"]) == 0


@pytest.mark.parametrize("case", cases("ops_selective_scan"))
def test_selective_scan(case: dict) -> None:
    K, C, N, L, B = (case[key] for key in ("K", "C", "N", "L", "B"))
    e, softplus = fill.example_input, case["delta_softplus"]
    delta = e((B, K * C, L), 21)
    delta = delta * 10 if case["big_delta"] else delta * 0.5 - 1
    inputs = dict(
        u=e((B, K * C, L), 20), delta=delta if softplus else delta.abs() * 0.3,
        A=-e((K * C, N), 22).abs() - 0.05, B=e((B, K, N, L), 23), C=e((B, K, N, L), 24),
    )  # fmt: skip
    inputs.update({"D": e((K * C,), 25)} if case["D"] else {})
    inputs.update({"delta_bias": e((K * C,), 26)} if case["delta_bias"] else {})
    check_op(inputs, 27, lambda **given: vmamba.selective_scan_fn(**given, delta_softplus=softplus), case)


@pytest.mark.parametrize("case", cases("ops_ssd"))
def test_ssd(case: dict) -> None:
    K, R, P, N, L, B = (case[key] for key in ("K", "R", "P", "N", "L", "B"))
    e = fill.example_input
    inputs = dict(
        x=e((B, L, K * R, P), 40), dt=e((B, L, K * R), 41) - 2, A=-e((K * R,), 42).abs() - 0.2,
        B=e((B, L, K, N), 43), C=e((B, L, K, N), 44), D=e((K * R, P), 45), dt_bias=e((K * R,), 46),
    )  # fmt: skip

    def call(**given):
        y, states = vmamba.selective_scan_chunk_fn(
            **given, chunk_size=case["chunk_size"], dt_softplus=True, return_final_states=True
        )
        assert fill.mismatch(states, case["final_states"]) < OUTPUT_TOLERANCE
        return y

    check_op(inputs, 47, call, case)
