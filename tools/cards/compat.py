"""What of the papers' code `vimzoo.compat` has: compared with recorded signatures, as tables for the guides."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from ..signatures import RECORDED
from .markdown import table

MODULES = {
    "vim/models_mamba.py": "vim",
    "seg/backbone/vim.py": "vim",
    "det/detectron2/modeling/backbone/vim.py": "vim",
    "mamba-1p1p1/mamba_ssm/modules/mamba_simple.py": "mamba_ssm.modules.mamba_simple",
    "mamba-1p1p1/mamba_ssm/ops/selective_scan_interface.py": "mamba_ssm.ops.selective_scan_interface",
    "mamba-1p1p1/mamba_ssm/ops/triton/layer_norm.py": "mamba_ssm.ops.triton.layer_norm",
    "classification/models/vmamba.py": "vmamba",
    "classification/models/csms6s.py": "vmamba",
    "classification/models/csm_triton.py": "vmamba",
    "classification/models/mamba2/ssd_minimal.py": "vmamba",
    "vmamba.py": "vmamba_single_file",
    "basicsr/archs/mambair_arch.py": "mambair",
    "basicsr/archs/mambairv2_arch.py": "mambair",
    "basicsr/archs/mambairv2light_arch.py": "mambair",
    "realDenoising/basicsr/models/archs/mambairunet_arch.py": "mambair_unet",
    "mamba_ssm/modules/mamba_simple.py": "mamba_ssm.modules.mamba_simple",
    "mamba_ssm/ops/selective_scan_interface.py": "mamba_ssm.ops.selective_scan_interface",
    "mamba_ssm/ops/triton/layer_norm.py": "mamba_ssm.ops.triton.layer_norm",
}
"""Their file -> the module below `vimzoo.compat` that has its names."""
GUIDES = {
    "migrating-from-vim.md": ("Vim", "mamba"),
    "migrating-from-vmamba.md": ("VMamba",),
    "migrating-from-mambair.md": ("MambaIR",),
}
SMALL: dict[str, dict[str, Any]] = {
    "VisionMamba": dict(depth=2, embed_dim=16, img_size=32),
    "VisionMambaSeg": dict(depth=2, embed_dim=16, img_size=32, out_indices=[1]),
    "VisionMambaDet": dict(depth=2, embed_dim=16, img_size=32),
    "VSSM": dict(depths=[1, 1], dims=8, forward_type="v05_noz"),
    "Backbone_VSSM": dict(depths=[1, 1], dims=8, forward_type="v05_noz", out_indices=(0, 1)),
    "MambaIR": dict(depths=[1], embed_dim=32, upsampler="nearest+conv", upscale=4),
    "MambaIRv2": dict(depths=[1], num_heads=[4], upsampler="nearest+conv", upscale=4, ape=True, img_size=16),
    "MambaIRv2Light": dict(depths=[1], num_heads=[4], upsampler="pixelshuffledirect", ape=True, img_size=16),
    "MambaIRUNet": dict(dim=32, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1),
    "Mamba": dict(d_model=16, bimamba_type="v2", init_layer_scale=1.0),
    "SS2D": dict(d_model=16),
    "VSSBlock": dict(hidden_dim=32),
}
"""Arguments of small modules with every attribute, to see which of theirs they have."""
_LAYER = "a part of the model here, see `vimzoo.layers`"
_SCRIPT = "a script's own function"
_PLAIN = "what their kernels are compared with"
ABSENT: dict[str, str] = {
    # Vim
    "PatchEmbed": "`vimzoo.layers.PatchEmbed`",
    "Block": "`create_block`",
    "segm_init_weights": "`model.init_weights()`",
    "get_vim_lr_decay_rate": "`model.group_matcher()`",
    # mamba_ssm
    "layer_norm_ref": f"{_PLAIN}: `vimzoo.ops.reference.add_norm`",
    "rms_norm_ref": f"{_PLAIN}: `vimzoo.ops.reference.add_norm`",
    "rms_norm_forward": "norms of B, C and the step sizes",
    "config_prune": "part of their kernels",
    "layer_norm_linear_fn": "`layer_norm_fn`, then `vimzoo.ops.linear`",
    # VMamba
    "Linear": "`Linear2d` of `vimzoo.compat.vmamba`",
    "LayerNorm": "`LayerNorm2d` of `vimzoo.compat.vmamba`",
    "PatchMerging2D": "`vimzoo.layers.MapDownsample`",
    "PatchMerge": "`vimzoo.layers.MapDownsample`",
    "Mlp": "`vimzoo.layers.Mlp`",
    "gMlp": "`vimzoo.layers.Mlp`",
    "SoftmaxSpatial": "`forward_type` with `_onsoftmax`",
    "mamba_init": "`initialize` of `SS2D`",
    **dict.fromkeys(("SS2Dv0", "SS2Dv2", "SS2Dv3", "SS2Dm0"), "`forward_type` of `SS2D`"),
    **dict.fromkeys(
        ("cross_scan_fwd", "cross_scan1b1_fwd", "cross_merge_fwd", "cross_merge1b1_fwd"),
        "`cross_scan_fn`, `cross_merge_fn`",
    ),
    "CHECK": _SCRIPT,
    "print_jit_input_names": _SCRIPT,
    "test_correctness": _SCRIPT,
    "flops_selective_scan_ref": "`flops_selective_scan_fn`",
    "selective_scan_flop_jit": "`vimzoo.ops.runtime.flops.graph_handles` for fvcore; torch's counter needs nothing",
    **dict.fromkeys(
        ("segsum", "segsum_unstable", "ssd_minimal_discrete", "mamba_chunk_scan_combined_torch"),
        f"{_PLAIN}: `selective_scan_chunk_fn`",
    ),
    "load_checkpoint": "`vimzoo.load_checkpoint`",
    "vmamba": "`VSSM`",
    **dict.fromkeys(("get_val_loader", "validate", "do_validate"), "`python -m vimzoo.eval`"),
    **dict.fromkeys(("throughput", "do_throughput"), "`benchmarks/cpu_models.py`"),
    # MambaIR
    "BasicLayer": "`vimzoo.models.mambair.model.ResidualGroup`",
    "ResidualGroup": "`vimzoo.models.mambair.model.ResidualGroup`",
    "BasicBlock": "`vimzoo.models.mambair.v2.AttentiveGroup`",
    "ASSB": "`vimzoo.models.mambair.v2.AttentiveGroup`",
    "AttentiveLayer": "`vimzoo.layers.attentive.AttentiveLayer`",
    "WindowAttention": "`vimzoo.layers.attentive.WindowAttention`",
    "ASSM": "`vimzoo.layers.attentive.AttentiveScan`",
    "Selective_Scan": "`vimzoo.layers.attentive.AttentiveScan`",
    **dict.fromkeys(("dwconv", "ConvFFN", "Gate", "GatedMLP"), _LAYER),
    **dict.fromkeys(("index_reverse", "semantic_neighbor", "window_partition", "window_reverse"), _LAYER),
    **dict.fromkeys(("OverlapPatchEmbed", "Downsample", "Upsample"), _LAYER),
}
"""Names of theirs that the module lacks, and what is here instead."""
OTHER_METHODS: dict[str, str] = {
    **dict.fromkeys(
        (f"{name}.forward_features" for name in ("MambaIR", "MambaIRv2", "MambaIRv2Light")),
        "ours, on maps with channels last",
    ),
    "Backbone_VSSM.load_pretrained": "timm's method: a file of the whole backbone; `pretrained=` takes a classifier's",
}
"""Methods that are ours under a name of theirs."""


@cache
def recorded() -> dict[str, Any]:
    """The recorded signatures by repository."""
    return json.loads(RECORDED.read_text())


def entries(repository: str) -> Iterator[tuple[str, str, Any, Any]]:
    """Every recorded name of a repository: its file, the name, its record, and ours or ``None``."""
    for file, names in recorded()[repository]["files"].items():
        module = importlib.import_module(f"vimzoo.compat.{MODULES[file]}")
        for name, record in names.items():
            yield file, name, record, getattr(module, name) if name in module.__all__ else None


def differences(official: str, ours: Callable[..., Any], names: Mapping[str, Any]) -> list[str]:
    """How a function of ours differs from a recorded signature.

    Args:
        official: Arguments and defaults as recorded.
        ours: It may have more arguments behind theirs, and a default where they have none.
        names: What defaults that are no literals refer to.
    """
    theirs = ast.parse(f"def f({official}): ...").body[0].args  # type: ignore[attr-defined]
    wanted = [argument.arg for argument in theirs.args]
    defaults = dict(zip(wanted[len(wanted) - len(theirs.defaults) :], theirs.defaults, strict=True))
    parameters = inspect.signature(ours).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [name for name, parameter in parameters.items() if parameter.kind in kinds]
    problems = []
    if found[: len(wanted)] != wanted:
        problems.append(f"expected {wanted}, got {found[: len(wanted)]}")
    if required := [n for n in found[len(wanted) :] if parameters[n].default is inspect.Parameter.empty]:
        problems.append(f"more required arguments: {required}")
    for name, node in defaults.items():
        value = eval(ast.unparse(node), {"nn": nn, "torch": torch, "partial": partial, **names})
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if _comparable(default) != _comparable(value):
            problems.append(f"{name}: expected the default {value!r}, got {default!r}")
    return problems


def _comparable(value: Any) -> Any:
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    return tuple(value) if isinstance(value, list) else value


def all_differences(repository: str) -> dict[str, list[str]]:
    """The differences of every function, constructor and method of theirs that is here."""
    found = {}
    for file, name, record, ours in entries(repository):
        if ours is None:
            continue
        names = vars(importlib.import_module(f"vimzoo.compat.{MODULES[file]}"))
        if isinstance(record, str):
            found[f"{file}: {name}"] = differences(record, ours, names)
            continue
        for method, official in record["methods"].items():
            place = f"{name}.{method}"
            function = inspect.getattr_static(ours, method, None)
            if place not in OTHER_METHODS and inspect.isfunction(function):
                found[f"{file}: {place}"] = differences(official, function, names)
    return {place: problems for place, problems in found.items() if problems}


def attributes(name: str, ours: Any, record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Attributes and methods of theirs that a small module of ours has, and those that it lacks."""
    with torch.device("meta"):
        module = ours(**SMALL[name])
    wanted = sorted({*record["attributes"], *(m for m in record["methods"] if m != "__init__")})
    has = [attribute for attribute in wanted if hasattr(module, attribute)]
    return has, [attribute for attribute in wanted if attribute not in has]


def _cells(name: str, record: Any, ours: Any) -> tuple[str, str]:
    """Whether a name of theirs is here, and what is to be said of it."""
    if ours is None:
        return "no", ABSENT[name]
    official = record if isinstance(record, str) else record["methods"].get("__init__", "")
    arguments = ast.parse(f"def f({official}): ...").body[0].args.args  # type: ignore[attr-defined]
    count = sum(argument.arg != "self" for argument in arguments)
    notes = [f"{count} argument{'s' if count > 1 else ''}"] if count else []
    if not isinstance(record, str) and name in SMALL:
        lacks = attributes(name, ours, record)[1]
        notes += [f"without {', '.join(f'`{attribute}`' for attribute in lacks)}"] if lacks else []
    notes += [f"`{place}`: {note}" for place, note in OTHER_METHODS.items() if place.startswith(f"{name}.")]
    return "yes", "; ".join(notes)


def _file_table(repository: str, file: str) -> str:
    """One file's names; those of which the same is to be said share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for found, name, record, ours in entries(repository):
        if found == file:
            rows.setdefault(_cells(name, record, ours), []).append(f"`{name}`")
    header = [f"`{file}`", f"in `vimzoo.compat.{MODULES[file]}`", "arguments, or what is here instead"]
    return table(header, [[", ".join(names), here, note] for (here, note), names in rows.items()])


def compat_table(repository: str) -> str:
    """What of a repository's files is here, file by file."""
    found = recorded()[repository]
    address = f"[{found['repository']}](https://github.com/{found['repository']})"
    about = f"Compared with {address} at `{found['commit'][:7]}`: arguments have the same names, order and defaults."
    return "\n\n".join([about, *(_file_table(repository, file) for file in found["files"])])


def guide_sections() -> dict[str, dict[str, str]]:
    """The tables of each guide by the name of their marker."""
    return {
        guide: {f"compat-{repository.lower()}": compat_table(repository) for repository in repositories}
        for guide, repositories in GUIDES.items()
    }
