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
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from common import RESULTS, table, write
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
import fill
import test_local_references as local_references
import test_mambair_references as mambair_references
import test_peers_references as peers_references
import test_videomamba_references as videomamba_references
import test_vim_references as vim_references
import test_vmamba_references as vmamba_references

from vimzoo.compat import efficient_vmamba, local_vim, mambair, videomamba, vim, vmamba
from vimzoo.models.mambair import MAMBAIR_FACTS
from vimzoo.models.vim import VIM_LONG_NAMES


def registered_name(call: str) -> str | None:
    """The registered model that an official call builds: the authors' registered function without arguments."""
    match = re.fullmatch(r"(?:models_mamba\.)?(\w+)\(\)", call)
    name = VIM_LONG_NAMES.get(match[1]) if match else None
    return name.split(".")[0] if name else None


def compare(module: nn.Module, references: ModuleType, compat: ModuleType, path: Path) -> dict[str, Any]:
    """Worst differences of outputs, inner tensors and gradient norms from one recording.

    Args:
        module: what the recorded call builds, in evaluation mode.
        references: the test module of its family, which knows where inner tensors are.
        compat: the family's compatible constructors.
        path: the recording.
    """
    reference = fill.load(path)
    module.load_state_dict(fill.state_dict(reference))
    inner = reference.get("intermediates") or {}
    seen = references.record(module) if inner else {}
    result = eval(reference.get("call", "m(x)"), {"m": module, "x": fill.model_input(reference)})
    outputs = [output for output in vim_references.outputs_of(result) if output is not None]
    norms = reference.get("grad_norm") or {}
    if norms:
        sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
    gradients = compat.official_gradients(module) if norms else {}
    pairs = zip(outputs, reference["outputs"], strict=True)
    name = path.name.removesuffix(".json.gz")
    return {
        "reference": name,
        "model": getattr(references, "REGISTERED", {}).get(name) or registered_name(reference["build"]),
        "call": reference["build"],
        "output": max(fill.mismatch(output, want) for output, want in pairs),
        "intermediate": max(
            (fill.mismatch(seen[label], want) for label, want in inner.items()), default=None
        ),
        "gradient": max(
            (
                abs(gradients[key].double().norm().item() - want) / max(want, 1e-12)
                for key, want in norms.items()
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
    "standard deviation, gradient norms relative; on the CPU in float32, or float64 where that would route tokens "
    "of MambaIRv2 otherwise"
)


def again(names: set[str]) -> None:
    """Compare these recordings of MambaIR again, and keep the other rows of the result file."""
    rows = json.loads((RESULTS / "parity.json").read_text())["rows"]
    known = {row["reference"] for row in rows if row["call"].startswith("MambaIR")}
    if names - known:
        raise SystemExit(f"expected recordings of MambaIR's models, got {', '.join(sorted(names - known))}")
    for number, row in enumerate(rows):
        if row["reference"] in names:
            path = mambair_references.REFERENCES / f"{row['reference']}.json.gz"
            rows[number] = compare_restoration(path)
    write("parity", rows, ABOUT, timed=False)


def main() -> None:
    """Compare recordings of models and mixers, print the worst and store all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="recordings to compare again, where others are kept; all by default"
    )
    only = set(parser.parse_args().names)
    if only:
        again(only)
        return
    rows = []
    for kind in ("mixer", "vim"):
        for path in sorted(vim_references.REFERENCES.glob(f"{kind}_*.json.gz")):
            torch.manual_seed(0)
            module = vim_references.build(fill.load(path)).eval()
            rows.append(compare(module, vim_references, vim, path))
    for name in vmamba_references.MODELS:
        torch.manual_seed(0)
        path = vmamba_references.REFERENCES / f"{name}.json.gz"
        module = eval(fill.load(path)["build"], dict(vars(vmamba))).eval()
        rows.append(compare(module, vmamba_references, vmamba, path))
    for name in local_references.NAMES:
        if not name.endswith("official"):  # those have a bug of the official code, which is not reproduced
            torch.manual_seed(0)
            path = local_references.REFERENCES / f"{name}.json.gz"
            module = local_references.build(fill.load(path)).eval()
            rows.append(compare(module, local_references, local_vim, path))
    for pattern in ("efficient_vmamba", "plain_mamba"):
        for path in sorted(peers_references.REFERENCES.glob(f"{pattern}_*.json.gz")):
            torch.manual_seed(0)
            module = peers_references.build(fill.load(path)).eval()
            rows.append(compare(module, peers_references, efficient_vmamba, path))
    for name in videomamba_references.MODELS:
        torch.manual_seed(0)
        path = videomamba_references.REFERENCES / f"{name}.json.gz"
        module = videomamba_references.build(fill.load(path)).eval()
        rows.append(compare(module, videomamba_references, videomamba, path))
    for pattern in ("block", "mambair"):
        for path in sorted(mambair_references.REFERENCES.glob(f"{pattern}*.json.gz")):
            rows.append(compare_restoration(path))
    table(rows, ["reference", "model", "output", "intermediate", "gradient"])
    write("parity", rows, ABOUT, timed=False)


if __name__ == "__main__":
    main()
