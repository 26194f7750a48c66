"""How far the models are from recordings of the official code: ``python benchmarks/parity.py``.

Runs every recording in ``tests/parity/references`` through the models by the authors' own calls and writes
``benchmarks/results/parity.json``: per recording the worst difference of outputs, of inner tensors (both as a
share of the recorded standard deviation) and of gradient norms (relative, in float64).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from common import RESULTS, table, write
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
import fill
import test_fusion_mamba_references as fusion_mamba_references
import test_group_mamba_references as group_mamba_references
import test_local_references as local_references
import test_mambair_references as mambair_references
import test_mila_references as mila_references
import test_mobile_mamba_references as mobile_mamba_references
import test_peers_references as peers_references
import test_segmamba_references as segmamba_references
import test_spatial_mamba_references as spatial_mamba_references
import test_swin_umamba_references as swin_umamba_references
import test_time_machine_references as time_machine_references
import test_u_mamba_references as u_mamba_references
import test_videomamba_references as videomamba_references
import test_vim_references as vim_references
import test_vm_unet_references as vm_unet_references
import test_vmamba_references as vmamba_references

from vimzoo.compat import (
    efficient_vmamba,
    fusion_mamba,
    group_mamba,
    local_vim,
    mambair,
    mila,
    mobile_mamba,
    segmamba,
    spatial_mamba,
    swin_umamba,
    time_machine,
    u_mamba,
    videomamba,
    vim,
    vm_unet,
    vmamba,
)
from vimzoo.models.mambair import MAMBAIR_FACTS
from vimzoo.models.vim import VIM_LONG_NAMES


def registered_name(call: str) -> str | None:
    """The registered model that an official call builds: the authors' registered function without arguments."""
    match = re.fullmatch(r"(?:models_mamba\.)?(\w+)\(\)", call)
    name = VIM_LONG_NAMES.get(match[1]) if match else None
    return name.split(".")[0] if name else None


def compare(
    build: Callable[[dict[str, Any]], nn.Module], references: ModuleType, compat: ModuleType, path: Path
) -> dict[str, Any]:
    """Worst differences of outputs, inner tensors and gradient norms from one recording.

    Args:
        build: the recording -> what its call builds.
        references: the test module of its family, which knows where inner tensors are; by its ``DTYPES`` a recording
            is compared in another dtype than float32; with a ``ROUNDING``, gradients
            that are nothing but rounding beside the largest count by the measure of the tests; those whose names have a
            part among its ``WITHOUT_GRADIENT``, or without the pattern that its ``gradients_of`` returns, do not count.
        compat: the family's compatible constructors.
        path: the recording.
    """
    name = path.name.removesuffix(".json.gz")
    read = getattr(references, "reference_of", None)
    reference = fill.load(path) if read is None else read(name)
    torch.manual_seed(0)
    chosen = getattr(references, "DTYPES", {}).get(name, "float32")
    dtype = getattr(torch, reference.get("dtype", chosen))
    module = build(reference).eval().to(dtype)
    state = fill.state_dict(reference, dtype)
    kept = {key: value for key, value in module.state_dict().items() if key.endswith("num_batches_tracked")}
    module.load_state_dict({**compat.official_state_dict(module), **state} if kept else state)
    inner = reference.get("intermediates") or {}
    recorded = getattr(references, "recorded", lambda module, labels: references.record(module))
    seen = recorded(module, list(inner)) if inner else {}
    with torch.set_grad_enabled(bool(reference.get("grad_norm"))):
        result = eval(reference.get("call", "m(x)"), {"m": module, "x": fill.model_input(reference, dtype)})
    outputs = [output for output in vim_references.outputs_of(result) if output is not None]
    norms = reference.get("grad_norm") or {}
    if norms:
        moved = [output for output in outputs if output.requires_grad]
        sum((output * fill.example_input(output.shape, 7, dtype)).sum() for output in moved).backward()
    gradients = compat.official_gradients(module) if norms else {}
    gradients_of = getattr(references, "gradients_of", lambda name: "")
    rounding = getattr(references, "ROUNDING", 0.0) / vim_references.GRADIENT_TOLERANCE
    floor = max(rounding * max(norms.values(), default=0.0), 1e-12)
    pairs = zip(outputs, reference["outputs"], strict=True)
    registered = getattr(references, "REGISTERED", {}).get(name)
    return {
        "reference": name,
        "model": registered.partition(".")[0] if registered else registered_name(reference["build"]),
        "call": reference["build"],
        "output": max(fill.mismatch(output, want) for output, want in pairs),
        "intermediate": max(
            (fill.mismatch(seen[label].reshape(want["shape"]), want) for label, want in inner.items()),
            default=None,
        ),
        "gradient": max(
            (
                abs(gradients[key].double().norm().item() - want) / max(want, floor)
                for key, want in norms.items()
                if not any(part in key for part in getattr(references, "WITHOUT_GRADIENT", ()))
                and re.search(gradients_of(name), key)
            ),
            default=None,
        ),
    }


def compare_restoration(path: Path) -> dict[str, Any]:
    """As `compare`, for a recording of MambaIR or one of its blocks; in float64 where float32 may route otherwise.

    Gradients that are nothing but rounding beside the largest count by the measure of the tests: relative to a
    thousandth of it.
    """
    tests, name = mambair_references, path.name.removesuffix(".json.gz")
    reference = fill.load(path)
    dtype = tests.dtype_for(reference)
    torch.manual_seed(0)
    module = tests.build(reference)
    module.load_state_dict(fill.state_dict(reference))
    module.to(dtype)
    tests.settle_kinks(module, name)
    if routing := reference.get("routing"):
        module.route_noise = tests.RouteNoise(routing)
    inner = reference.get("intermediates") or {}
    seen, _ = tests.record(module, list(inner))
    rest = tests.block_arguments(reference) if name.startswith("block_") else ()
    output = module(fill.model_input(reference, dtype), *rest)
    (output * fill.example_input(output.shape, 7, output.dtype)).sum().backward()
    norms = {key: g.double().norm().item() for key, g in mambair.official_gradients(module).items()}
    floor = tests.ROUNDING / tests.GRADIENT_TOLERANCE * max(reference["grad_norm"].values())
    return {
        "reference": name,
        "model": name if name in MAMBAIR_FACTS else None,
        "call": reference["build"],
        "output": fill.mismatch(output, reference["outputs"][0]),
        "intermediate": max(
            (fill.mismatch(tests.as_theirs(k, seen[k], module), want) for k, want in inner.items()),
            default=None,
        ),
        "gradient": max(
            abs(norms[k] - want) / max(want, floor) for k, want in reference["grad_norm"].items()
        ),
    }


ABOUT = (
    "Worst difference from recordings of the official code: outputs and inner tensors as a share of the recorded "
    "standard deviation, gradient norms relative; on the CPU in float32, or float64 where rounding decides: which way "
    "tokens of MambaIRv2 go, and gradients of both FusionMambas"
)


Row = Callable[[], dict[str, Any]]


def recordings() -> dict[str, Row]:
    """Every recording that is compared, by name, in the order of the result file."""
    found: dict[str, Row] = {}

    def add(build: Any, references: ModuleType, compat: ModuleType, paths: list[Path]) -> None:
        for path in paths:
            name = path.name.removesuffix(".json.gz")
            found[name] = partial(compare, build, references, compat, path)

    def files(references: ModuleType, *names: str) -> list[Path]:
        return [references.REFERENCES / f"{name}.json.gz" for name in names]

    def matching(references: ModuleType, pattern: str) -> list[Path]:
        return sorted(references.REFERENCES.glob(f"{pattern}*.json.gz"))

    for kind in ("mixer_", "vim_"):
        add(vim_references.build, vim_references, vim, matching(vim_references, kind))
    add(
        lambda reference: eval(reference["build"], dict(vars(vmamba))),
        vmamba_references, vmamba, files(vmamba_references, *vmamba_references.MODELS),
    )  # fmt: skip
    # those called official have a bug of the official code, which is not reproduced
    names = [name for name in local_references.NAMES if not name.endswith("official")]
    add(local_references.build, local_references, local_vim, files(local_references, *names))
    for kind in ("efficient_vmamba_", "plain_mamba_"):
        add(peers_references.build, peers_references, efficient_vmamba, matching(peers_references, kind))
    for references, compat, names in (
        (group_mamba_references, group_mamba, group_mamba_references.MODELS),
        (mobile_mamba_references, mobile_mamba, mobile_mamba_references.MODELS),
        (videomamba_references, videomamba, videomamba_references.MODELS),
        (vm_unet_references, vm_unet, vm_unet_references.ANSWERS),
        (swin_umamba_references, swin_umamba, swin_umamba_references.MODELS),
        (spatial_mamba_references, spatial_mamba, spatial_mamba_references.MODELS),
        (mila_references, mila, mila_references.MODELS),
        (u_mamba_references, u_mamba, u_mamba_references.NAMES),
        (segmamba_references, segmamba, segmamba_references.NAMES),
        (fusion_mamba_references, fusion_mamba, fusion_mamba_references.NAMES),
        (time_machine_references, time_machine, time_machine_references.NAMES),
    ):
        add(references.build, references, compat, files(references, *names))
    for kind in ("block", "mambair"):
        for path in matching(mambair_references, kind):
            found[path.name.removesuffix(".json.gz")] = partial(compare_restoration, path)
    return found


def main() -> None:
    """Compare recordings of models and mixers, print the worst and store all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="recordings to compare again, where others are kept; all by default"
    )
    only, known = set(parser.parse_args().names), recordings()
    if only - set(known):
        raise SystemExit(f"expected names of recordings, got {', '.join(sorted(only - set(known)))}")
    rows = {}
    if only:
        rows = {row["reference"]: row for row in json.loads((RESULTS / "parity.json").read_text())["rows"]}
    for name in only or known:
        rows[name] = known[name]()
    ordered = [rows[name] for name in known if name in rows]
    table(ordered, ["reference", "model", "output", "intermediate", "gradient"])
    write("parity", ordered, ABOUT, timed=False)


if __name__ == "__main__":
    main()
