"""Record the signatures of the papers' code as data: names, order and defaults of arguments, and attributes.

    python -m tools.signatures Vim=PATH VMamba=PATH MambaIR=PATH mamba=PATH

PATH is a git repository, bare or not; its HEAD is read with `ast`, so that nothing of it needs to be installed. Only
names and defaults are kept. The tables in docs/migrating-from-*.md and the test of signatures read the result.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[1] / "tests" / "models" / "official_signatures.json"
SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Vim": (
        "hustvl/Vim",
        (
            "vim/models_mamba.py",
            "seg/backbone/vim.py",
            "det/detectron2/modeling/backbone/vim.py",
            "mamba-1p1p1/mamba_ssm/modules/mamba_simple.py",
            "mamba-1p1p1/mamba_ssm/ops/selective_scan_interface.py",
            "mamba-1p1p1/mamba_ssm/ops/triton/layer_norm.py",
        ),
    ),
    "VMamba": (
        "MzeroMiko/VMamba",
        (
            "classification/models/vmamba.py",
            "classification/models/csms6s.py",
            "classification/models/csm_triton.py",
            "classification/models/mamba2/ssd_minimal.py",
            "vmamba.py",
        ),
    ),
    "MambaIR": (
        "csguoh/MambaIR",
        (
            "basicsr/archs/mambair_arch.py",
            "basicsr/archs/mambairv2_arch.py",
            "basicsr/archs/mambairv2light_arch.py",
            "realDenoising/basicsr/models/archs/mambairunet_arch.py",
        ),
    ),
    "mamba": (
        "state-spaces/mamba",
        (
            "mamba_ssm/modules/mamba_simple.py",
            "mamba_ssm/ops/selective_scan_interface.py",
            "mamba_ssm/ops/triton/layer_norm.py",
        ),
    ),
}
"""Repositories, and their files that `vimzoo.compat` stands in for."""


def signature(function: ast.FunctionDef) -> str:
    """Arguments with their defaults, without annotations."""
    arguments = function.args
    for argument in [
        *arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg,
    ]:  # fmt: skip
        if argument is not None:
            argument.annotation = None
    return ast.unparse(arguments)


def is_public(node: ast.stmt) -> bool:
    """Whether it is a function or class for users: no kernel, no autograd function, no underscore."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return False
    words = [ast.unparse(part) for part in (*node.decorator_list, *getattr(node, "bases", ()))]
    return not any("triton" in word or word.endswith("Function") for word in words)


def of_class(node: ast.ClassDef) -> dict[str, Any]:
    """Public methods and the constructor, and the attributes that methods assign."""
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    shown = {m.name: signature(m) for m in methods if m.name == "__init__" or not m.name.startswith("_")}
    assigned = {
        target.attr
        for method in methods
        for part in ast.walk(method)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        for target in [part]
        if isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    return {"methods": shown, "attributes": sorted(name for name in assigned if not name.startswith("_"))}


def of_file(text: str) -> dict[str, Any]:
    """Every public function and class of a module."""
    nodes = [node for node in ast.parse(text).body if is_public(node)]
    return {
        node.name: signature(node) if isinstance(node, ast.FunctionDef) else of_class(node)  # type: ignore[arg-type, attr-defined]
        for node in nodes
    }


def main(arguments: list[str]) -> None:
    """Write `RECORDED` from ``NAME=PATH`` arguments; other repositories' records stay."""

    def git(path: str, *command: str) -> str:
        done = subprocess.run(["git", "-C", path, *command], check=True, capture_output=True, text=True)
        return done.stdout

    found = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        repository, files = SOURCES[name]
        texts = {file: git(path, "show", f"HEAD:{file}") for file in files}
        found[name] = {
            "repository": repository,
            "commit": git(path, "rev-parse", "HEAD").strip(),
            "files": {file: of_file(text) for file, text in texts.items()},
        }
    RECORDED.write_text(json.dumps({name: found[name] for name in SOURCES if name in found}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
