"""The text of every generated document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vimzoo.exporting import FORMATS
from vimzoo.models.registry import FAMILIES

from . import (
    classification,
    compat,
    crossings,
    networks,
    pictures,
    restoration,
    scaling,
    segmentation,
    shipped,
    speed,
    versions,
    video,
)
from .markdown import machine_line, or_none, read_result, result_table, table
from .results import Results, command, marked

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "classification": classification,
    "restoration": restoration,
    "segmentation": segmentation,
    "video": video,
    "forecasting": networks,
    "fusion": networks,
}
"""What writes the cards of a family, by the family's task."""
RATIOS = {
    "cpu_models": ("vim_ms", "deit_ms"),
    "cpu_vmamba": ("vmamba_ms", "swin_ms", "convnext_ms"),
}
"""Times that tables leave out, so that the time of a model has one figure: that of ``cpu_each_model``."""
PAIRS = ("files", "images", "ms", "crops_per_s")
SHARDS = ("read", "loader processes", "vimzoo", "webdataset", "ratio")
PHOTOGRAPH = ("pixels", "result", "threads", "seconds", "cpu_seconds", "peak_gb", "limit_gb")
"""Columns of docs/restoration.md's table of a large photograph."""
FOLDERS = (
    "model",
    "pictures",
    "threads",
    "model_ms",
    "whole_ms",
    "x_model",
    "quarter_mb",
    "peak_mb",
)
"""Columns of docs/restoration.md's table of small pictures."""
ROUTES = ("trained_with", "updates", "evaluated_with", "psnr", "spread_db", "margin_db")
"""Columns of docs/restoration.md's table of MambaIRv2's routes."""
COMPOSED = ("model", "input", "ours_ms", "formulas_ms", "x_formulas")
"""Columns of docs/choosing-a-model.md's table of families beside their authors' formulas."""
S4D = (
    "init",
    "states",
    "tokens",
    "convolution_ms",
    "recurrence_ms",
    "convolution_backward_ms",
    "recurrence_backward_ms",
)
"""Columns of docs/kernels.md's table of S4D's two forms."""
DIGITS = (
    "form",
    "threads",
    "images",
    "top1",
    "other_answers",
    "difference",
    "kb",
    "images_per_s_batch_1",
    "images_per_s_batch_64",
)
"""Columns of docs/export.md's table of the digits' model as a file."""
EXPERTS = ("mlp", "parameters", "top1", "top1_spread", "loss")
"""Columns of docs/quantization.md's table of experts."""
PRODUCTS = (
    "rows",
    "inputs",
    "outputs",
    "float32",
    "int8",
    "int8, widened first",
    "torchao int8",
    "int4",
    "int4, widened first",
    "torchao int4",
    "onnxruntime int4",
    "int8 dynamic",
    "torchao int8 dynamic",
    "onnxruntime int8 dynamic",
)
"""Columns of docs/quantization.md's table of products."""
QUANTISERS = (
    "model",
    "form",
    "top1",
    "other_answers",
    "difference",
    "kb",
    "images_per_s_batch_1",
    "images_per_s_batch_64",
)
"""Columns of docs/ecosystem.md's table of torchao's quantisers."""
RUNTIMES = ("model", "px", "batch", "threads", "runtime", "file", "open", "mb", "difference", "x_eager")
"""Columns of docs/export.md's table of runtimes."""

COMPILED = ("model", "px", "form", "ms", "x_eager")
"""Columns of docs/faq.md's table of compiled models."""

RESTORED = (
    "model", "weights", "psnr", "psnr_change", "ssim", "kb", "images_per_s_batch_1", "images_per_s_batch_32",
)  # fmt: skip
"""Columns of docs/quantization.md's table of restoration."""
SPARSE = ("rows", "zeros", "dense", "int8", "int8 dynamic", "csr", "coo", "blocks", "fewer units")
"""Columns of docs/quantization.md's table of sparse layers."""

INTRODUCTION = """\
# Model cards

`make cards` writes this file; a test fails if it is out of date. Sizes are counted from the registered models,
published figures come from the records beside each registration, measured ones from `benchmarks/results`.

- **Parameters**: of the model as registered, including the classifier.
- **GFLOPs**: for one image at the model's size, counted by torch's `FlopCounterMode` on the device `meta`; a
  multiply-add is 2 operations. Per channel, token and direction the scan counts 9 N for the recurrence (N states), 2
  for D and 2 R for the step-size projection (rank R). Norms, activations and additions count nothing.
- **papers' GFLOPs**: the same model counted as papers of this field do: a multiply-add is 1, the recurrence is also
  9 N (VMamba's rule), D and the gate are 1 each. Compare this column with published tables; *published* is such a
  figure, whose authors may have left out some terms.
- **top-1, top-5**: ImageNet-1k validation accuracy in per cent **as published**. It was not measured here.
- **parity**: largest difference from recordings of the official code, which are part of this repository
  (`tests/parity/references`): for outputs and intermediate tensors as a share of the recording's standard deviation,
  for gradient norms relative. `benchmarks/parity.py` measures it.
- **ms**: median time of one image on the CPU, float32, measured by `benchmarks/each_model.py` on the named machine.
- **Training as published**: the command of the recipe. In a clone, `python train.py` does the same as `vimzoo-train`.
- In all tables, *none* means that nothing is published or recorded, *not measured* that there is no measurement yet,
  and "-" that a figure does not apply.
"""


def parity_section(results: Results) -> str:
    """Every recording, and the worst of all."""
    rows = results.parity["rows"]
    if not rows:
        return "Not measured yet."
    kinds = ("output", "intermediate", "gradient")
    worst = {kind: max((row[kind] or 0.0 for row in rows), default=0.0) for kind in kinds}
    body = [[f"`{row['reference']}`", *(or_none(row[kind]) for kind in kinds)] for row in rows]
    said = f"{results.parity['about']}. {machine_line(results.parity['machine'])}. By `{command('parity')}`."
    return f"{said}\n\n{table(['recording', *kinds], [['**worst of all**', *worst.values()], *body])}"


def model_cards(results: Results) -> str:
    """The text of MODEL_CARDS.md."""
    parts = [INTRODUCTION, *(TASKS[family.task].section(family, results) for family in FAMILIES.values())]
    parts += ["## Parity\n", parity_section(results) + "\n", "## Speed\n"]
    for machine in results.machines:
        for path in sorted(machine.glob("*.json")):
            title = f"### {path.stem}, {machine.name}\n"
            result = marked(read_result(machine, path.stem))
            parts += [title, result_table(result, command(path.stem), RATIOS.get(path.stem, ())) + "\n"]
    return "\n".join(parts)


def readme_sections(results: Results) -> dict[str, str]:
    """The tables of README.md by the name of their marker."""
    models = []
    for module in dict.fromkeys(TASKS.values()):
        tasks = [task for task, other in TASKS.items() if other is module]
        models.append(module.readme_table([f for f in FAMILIES.values() if f.task in tasks], results))
    return {"models": "\n\n".join(models), "speed": speed.readme_table(results)}


def fill_sections(text: str, sections: Mapping[str, str]) -> str:
    """``text`` with what stands between ``<!-- generated:NAME -->`` and ``<!-- end -->`` replaced.

    Raises:
        ValueError: a section has no such pair of markers.
    """
    for name, content in sections.items():
        pattern = rf"(<!-- generated:{name} -->\n)(?:(?!<!-- ).)*(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.S)  # type: ignore[misc]
        if not found:
            raise ValueError(f"README.md: no markers <!-- generated:{name} --> ... <!-- end -->")
    return text


def formats_table() -> str:
    """The formats that models are exported to, one row each."""
    rows = [[f"`{f.name}`", f"`{f.suffix}`", f.runs_with, f.operators] for f in FORMATS.values()]
    return table(["`--format`", "file", "what runs it", "operators"], rows)


def documents(root: Path = ROOT) -> dict[Path, str]:
    """Every generated document of the checkout ``root`` -> the text that it should have."""
    folder = root / "benchmarks" / "results"
    results = Results(folder)
    sections = {
        root / "README.md": readme_sections(results),
        root / "docs" / "reliability.md": {
            "reliability": result_table(read_result(folder, "reliability"), command("reliability"))
        },
        root / "docs" / "choosing-a-model.md": {"families": results.compared("cpu_families", COMPOSED)},
        root / "docs" / "ecosystem.md": {
            "crossings": crossings.crossings_table(folder),
            "quantisers": results.compared("quantisers", QUANTISERS),
        },
        root / "docs" / "export.md": {
            "digits": results.compared("export_digits", DIGITS),
            "formats": formats_table(),
            "runtimes": results.compared("export_runtimes", RUNTIMES),
        },
        root / "docs" / "faq.md": {"compiled": results.compared("cpu_compiled", COMPILED)},
        root / "docs" / "install.md": {
            "versions": versions.versions_table(folder),
            "compilers": versions.compilers_table(folder),
        },
        root / "docs" / "kernels.md": {"s4d": results.compared("cpu_s4d", S4D)},
        root / "docs" / "quantization.md": {
            "products": results.compared("quantized_linear", PRODUCTS),
            "experts": results.compared("moe", EXPERTS),
            "restored": results.compared("quantised_restoration", RESTORED),
            "sparse": results.compared("sparse", SPARSE),
        },
        root / "docs" / "restoration.md": {
            "kept": pictures.kept_table(),
            "peers": pictures.peers_table(),
            "libraries": pictures.libraries_table(),
            "routing": results.compared("routing", ROUTES),
            "folders": results.compared("cpu_folders", FOLDERS),
            "shipped": shipped.photos_table(results),
            "photograph": results.compared("cpu_restoration_photograph", PHOTOGRAPH),
            "pairs": results.compared("cpu_pairs_crops", PAIRS),
        },
        root / "docs" / "scaling.md": scaling.sections(
            {name: results.newest(name) for name in scaling.RESULTS}
        ),
        root / "docs" / "training.md": {
            "shards": results.compared("shards", SHARDS),
            "shapes": result_table(read_result(folder, "dynamic_shapes"), command("dynamic_shapes")),
        },
        root / "kernels" / "selective_scan" / "README.md": {
            "slots": versions.slots_table(folder),
            "instructions": result_table(read_result(folder, "instructions"), command("instructions")),
        },
    }
    sections[root / "kernels" / "threads" / "README.md"] = {
        "pool": result_table(results.newest("cpu_threads_pool"), command("cpu_threads_pool")),
    }
    for guide, parts in compat.guide_sections().items():
        sections[root / "docs" / guide] = parts
    filled = {
        path: fill_sections(path.read_text(), parts) for path, parts in sections.items() if path.is_file()
    }
    return {root / "MODEL_CARDS.md": model_cards(results), **filled}
