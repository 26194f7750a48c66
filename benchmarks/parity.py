"""How far the models are from recordings of the official code: ``python benchmarks/parity.py``.

Runs every recording in ``tests/parity/references`` through the models by the authors' own calls and writes
``benchmarks/results/parity.json``: per recording the worst difference of outputs, of inner tensors (both as a
share of the recorded standard deviation) and of gradient norms (relative, in float64).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from common import table, write

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
import fill
import test_vim_references as vim_references

from vimzoo.compat import vim
from vimzoo.models.vim import VIM_LONG_NAMES


def registered_name(call: str) -> str | None:
    """The registered model that an official call builds: the authors' registered function without arguments."""
    match = re.fullmatch(r"(?:models_mamba\.)?(\w+)\(\)", call)
    name = VIM_LONG_NAMES.get(match[1]) if match else None
    return name.split(".")[0] if name else None


def compare(path: Path) -> dict[str, Any]:
    """Worst differences of outputs, inner tensors and gradient norms from one recording of a model or mixer."""
    reference = fill.load(path)
    module = vim_references.build(reference).eval()
    module.load_state_dict(fill.state_dict(reference))
    seen = vim_references.record(module) if hasattr(module, "blocks") else {}
    outputs = vim_references.outputs_of(module(fill.model_input(reference)))
    loss = sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs)
    loss.backward()
    gradients = vim.official_gradients(module)
    pairs = zip(outputs, reference["outputs"], strict=True)
    inner = reference.get("intermediates") or {}
    norms = reference["grad_norm"]
    return {
        "reference": path.name.removesuffix(".json.gz"),
        "model": registered_name(reference["build"]),
        "call": reference["build"],
        "output": max(fill.mismatch(output, want) for output, want in pairs),
        "intermediate": max(
            (fill.mismatch(seen[label], want) for label, want in inner.items()), default=None
        ),
        "gradient": max(
            abs(gradients[name].double().norm().item() - want) / max(want, 1e-12)
            for name, want in norms.items()
        ),
    }


def main() -> None:
    """Compare all recordings of models and mixers, print the worst and store all."""
    paths = sorted(
        path for kind in ("vim", "mixer") for path in vim_references.REFERENCES.glob(f"{kind}_*.json.gz")
    )
    rows = []
    for path in paths:
        torch.manual_seed(0)
        rows.append(compare(path))
    table(rows, ["reference", "model", "output", "intermediate", "gradient"])
    write(
        "parity",
        rows,
        "Worst difference from recordings of the official code: outputs and inner tensors as a share of the recorded "
        "standard deviation, gradient norms relative; float32, CPU",
    )


if __name__ == "__main__":
    main()
