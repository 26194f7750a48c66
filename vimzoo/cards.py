"""MODEL_CARDS.md and the tables of README.md, from the registry's facts and ``benchmarks/results``.

``python -m vimzoo.cards`` writes them, ``--check`` only says whether they are up to date. Both need a checkout.
No figure is typed by hand: sizes are counted, scores and sources come from the records beside each
registration, measured figures from result files that say where, when and with what they were obtained.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vimzoo import restoration_cards, scaling_cards, version_cards

from .card_parts import (
    comparison,
    errors,
    giga,
    machine_line,
    millions,
    number,
    read_result,
    result_table,
    size_of,
    table,
)
from .commands import run_command
from .exporting import FORMATS
from .models.facts import ModelFacts
from .models.vim import VIM_FACTS, VIM_LONG_NAMES
from .models.vmamba import VMAMBA_FACTS

ROOT = Path(__file__).resolve().parents[1]
FAMILIES: dict[str, tuple[Mapping[str, ModelFacts], Mapping[str, str | None]]] = {
    "Vim": (VIM_FACTS, VIM_LONG_NAMES),
    "VMamba": (VMAMBA_FACTS, {}),
}
"""Family, named like its class -> its models, and the names that its authors register them under."""
README_RESULTS = {
    "cpu_models": ("px", "dtype", "vim_ms", "deit_ms", "speed_vs_deit"),
    "cpu_vmamba": ("batch", "vmamba_ms", "swin_ms", "convnext_ms", "speed_vs_swin"),
    "cpu_selective_scan": ("shape", "pass", "native_ns", "x_formula", "x_eager"),
    "cpu_restoration": (
        "px",
        "fused_ms",
        "materialised_ms",
        "swinir_light_ms",
        "x_materialised",
        "x_swinir_light",
    ),
}
"""Result files that README.md shows, and the columns of each; everything else is in MODEL_CARDS.md."""
PAIRS = ("files", "images", "ms", "crops_per_s")
SHARDS = ("read", "loader processes", "vimzoo", "webdataset", "ratio")
PHOTOGRAPH = ("pixels", "result", "threads", "seconds", "cpu_seconds", "peak_gb", "limit_gb")
"""Columns of docs/restoration.md's table of a large photograph."""
DIGITS = (
    "form",
    "images",
    "top1",
    "other_answers",
    "difference",
    "kb",
    "threads",
    "images_per_s_batch_1",
    "images_per_s_batch_64",
)
"""Columns of docs/export.md's table of the digits' model as a file."""

INTRODUCTION = """\
# Model cards

Written by `python -m vimzoo.cards`; a test fails when this file is stale. Sizes are counted from the registered
models, published figures come from the records beside each registration, measured ones from `benchmarks/results`.

- **Parameters**: of the model as registered, classifier included.
- **GFLOPs**: one image at the model's size, by torch's `FlopCounterMode`; a multiply-add is 2 operations. Per channel,
  token and direction the scan counts 9 N for the recurrence (N states), 2 for D and 2 R for the step-size projection (R
  its rank). Norms, activations and additions count nothing.
- **papers' GFLOPs**: the same model as papers of this field count: a multiply-add is 1, the recurrence is 9 N all the
  same (VMamba's rule) and D and the gate 1 each. Compare this column with published tables; *published* is such a
  figure, whose authors may leave out some terms.
- **top-1, top-5**: ImageNet-1k validation accuracy in per cent **as published**. It was not measured here.
- **parity**: worst difference from recordings of the official code, which are part of this repository
  (`tests/parity/references`): of outputs and of inner tensors, as a share of the recording's standard deviation, and of
  gradient norms, relative. "-" where no recording of this very size exists; `benchmarks/parity.py` writes them.
- **ms**: median time of one image on the CPU, float32, by `benchmarks/each_model.py`.
"""


def machine_folders(folder: Path) -> list[Path]:
    """The folders of machines that were measured, the one whose models were timed last first.

    A single later measurement of something else does not make a machine's figures newer.
    """

    def latest(machine: Path) -> tuple[str, str]:
        files = [path for path in [machine / "cpu_each_model.json"] if path.is_file()]
        dates = [
            read_result(machine, file.stem)["machine"].get("date", "")
            for file in files or machine.glob("*.json")
        ]
        return max(dates, default=""), machine.name

    return sorted((path for path in folder.glob("*/") if any(path.glob("*.json"))), key=latest, reverse=True)


class Cards:
    """What the documents say, given the result files in ``folder`` and its machines' folders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.machines = folder, machine_folders(folder)
        self.parity = read_result(folder, "parity")
        timed = [machine for machine in self.machines if (machine / "cpu_each_model.json").is_file()]
        self.speed = read_result(timed[0] if timed else folder, "cpu_each_model")

    def results(self, name: str) -> dict[str, dict[str, Any]]:
        """A result file of every machine that has it, by the machine."""
        return {m.name: read_result(m, name) for m in self.machines if (m / f"{name}.json").is_file()}

    def newest(self, name: str) -> dict[str, Any]:
        """A result file that holds anywhere, or that of the machine where it was made last; empty if there is none."""
        found = self.results(name).values()
        anywhere = read_result(self.folder, name)
        return max(found, key=lambda result: result["machine"].get("date", ""), default=anywhere)

    def compared(self, name: str, columns: Sequence[str], threads: int | None = None) -> str:
        """A kind of result from every machine that has it, in one table.

        Args:
            name: of the result files.
            columns: keys of the rows to show.
            threads: show only rows measured with this number of threads; None shows all.
        """
        results = self.results(name)
        if not results:
            return "Not measured yet."
        if threads is not None:
            results = {
                machine: {**result, "rows": [row for row in result["rows"] if row["threads"] == threads]}
                for machine, result in results.items()
            }
        return comparison(results, columns)

    def parity_of(self, name: str) -> Mapping[str, Any] | None:
        """The comparison with the recording of this very model, if there is one."""
        return next((row for row in self.parity["rows"] if row["model"] == name), None)

    def ms_of(self, name: str) -> str:
        """Times by number of threads, as "1 thread / 2 threads"."""
        return " / ".join(number(row["ms"]) for row in self.speed["rows"] if row["model"] == name) or "-"

    def threads(self) -> str:
        """The numbers of threads of `ms_of`."""
        counts = dict.fromkeys(row["threads"] for row in self.speed["rows"])
        return " / ".join(f"{count} thread{'s' * (count > 1)}" for count in counts)

    def model_table(self, models: Mapping[str, ModelFacts]) -> str:
        """One row per model."""
        ms = f"ms, {self.threads()}" if self.threads() else "ms"
        header = ["model", "px", "params, M", "GFLOPs", "papers' GFLOPs", "published", "top-1", "top-5"]
        rows = []
        for name, facts in models.items():
            size = size_of(name)
            published = None if facts.gflops is None else str(facts.gflops)
            scores = [None if score is None else str(score) for score in (facts.top1, facts.top5)]
            counted = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
            link = f"[`{name}`](#{name})"
            rows.append([link, facts.input_size[-1], *counted, published, *scores, self.ms_of(name)])
        return table([*header, ms], rows)

    def card(self, family: str, facts: ModelFacts, long_names: Mapping[str, str | None]) -> str:
        """Everything that is known about one model."""
        size = size_of(facts.name)
        arguments = ", ".join(f"{key}={value!r}" for key, value in facts.args.items())
        shape = " x ".join(map(str, facts.input_size))
        lines = [
            f"Input {shape}, {facts.num_classes} classes; `{arguments}`, the rest as `{family}`'s defaults"
        ]
        lines += [f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers')"]
        if facts.gflops is not None:
            lines[-1] += f"; published {facts.gflops} ({facts.gflops_source})"
        if facts.top1 is not None:
            top5 = f", top-5 {facts.top5} %" if facts.top5 is not None else ""
            lines.append(f"Published: top-1 {facts.top1} %{top5} on ImageNet-1k ({facts.score_source})")
        if facts.hub_id:
            where = f"`{facts.hub_file}` in [{facts.hub_id}](https://huggingface.co/{facts.hub_id})"
            lines.append(f"Weights: `{facts.tagged_name}`, {where}, {facts.license}")
        elif facts.url:
            file = facts.url.rsplit("/", 1)[1]
            lines.append(f"Weights: `{facts.tagged_name}`, [{file}]({facts.url}), {facts.license}")
        else:
            lines.append("Weights: none published")
        if facts.recipe:
            lines.append(f"Training: {facts.recipe}")
        lines.append(f"Source: {facts.origin}, arXiv:{facts.paper}")
        if row := self.parity_of(facts.name):
            lines.append(f"Parity with `{row['reference']}`, output / inner / gradient: {errors(row)}")
        if self.ms_of(facts.name) != "-":
            lines.append(f"CPU: {self.ms_of(facts.name)} ms an image ({self.threads()})")
        lines += [
            f"Authors' name: `{long}`" for long, name in long_names.items() if name == facts.tagged_name
        ]
        if facts.note:
            lines.append(f"Note: {facts.note}")
        return "\n".join([f"### {facts.name}", "", *(f"- {line}" for line in lines)])

    def parity_section(self) -> str:
        """Every recording, and the worst of all."""
        rows = self.parity["rows"]
        if not rows:
            return "Not measured yet."
        kinds = ("output", "intermediate", "gradient")
        worst = {kind: max((row[kind] or 0.0 for row in rows), default=0.0) for kind in kinds}
        body = [[f"`{row['reference']}`", *(row[kind] for kind in kinds)] for row in rows]
        said = f"{self.parity['about']}. {machine_line(self.parity['machine'])}."
        return f"{said}\n\n{table(['recording', *kinds], [['**worst of all**', *worst.values()], *body])}"

    def document(self) -> str:
        """The text of MODEL_CARDS.md."""
        parts = [INTRODUCTION]
        for family, (models, long_names) in FAMILIES.items():
            parts += [f"## {family}\n", self.model_table(models) + "\n"]
            if self.speed["machine"]:
                parts.append(f"Times: {machine_line(self.speed['machine'])}.\n")
            parts += [self.card(family, facts, long_names) + "\n" for facts in models.values()]
        parts += [restoration_cards.section(self.parity_of)]
        parts += ["## Parity\n", self.parity_section() + "\n", "## Speed\n"]
        for machine in self.machines:
            for path in sorted(machine.glob("*.json")):
                title = f"### {path.stem}, {machine.name}\n"
                parts += [title, result_table(read_result(machine, path.stem)) + "\n"]
        return "\n".join(parts)

    def readme_sections(self) -> dict[str, str]:
        """The tables of README.md by the name of their marker."""
        header = ["model", "weights", "params, M", "papers' GFLOPs", "published top-1", "parity", "CPU ms"]
        rows = []
        for models, _ in FAMILIES.values():
            for name, facts in models.items():
                size, top1 = size_of(name), None if facts.top1 is None else str(facts.top1)
                parity = self.parity_of(name)
                counted = [millions(size.params), giga(size.paper_flops), top1]
                weights = "yes" if facts.hub_id or facts.url else "-"
                rows.append([f"`{name}`", weights, *counted, parity and parity["output"], self.ms_of(name)])
        said = f"CPU ms: one image, float32, {self.threads()}; {machine_line(self.speed['machine'])}."
        speed = [
            self.compared(name, columns, threads=1)
            for name, columns in README_RESULTS.items()
            if self.results(name)
        ]
        return {
            "models": "\n\n".join(
                [
                    table(header, rows),
                    *([said] if self.speed["rows"] else []),
                    restoration_cards.readme_table(self.parity_of),
                ]
            ),
            "speed": "\n\n".join(speed),
        }


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
    results = root / "benchmarks" / "results"
    cards = Cards(results)
    sections = {
        root / "README.md": cards.readme_sections(),
        root / "docs" / "reliability.md": {"reliability": result_table(read_result(results, "reliability"))},
        root / "docs" / "export.md": {
            "digits": cards.compared("export_digits", DIGITS),
            "formats": formats_table(),
        },
        root / "docs" / "install.md": {
            "versions": version_cards.versions_table(results),
            "compilers": version_cards.compilers_table(results),
        },
        root / "docs" / "restoration.md": {
            "photograph": cards.compared("cpu_restoration_photograph", PHOTOGRAPH),
            "pairs": cards.compared("cpu_pairs_crops", PAIRS),
        },
        root / "docs" / "scaling.md": scaling_cards.sections(
            {name: cards.newest(name) for name in scaling_cards.RESULTS}
        ),
        root / "docs" / "training.md": {"shards": cards.compared("shards", SHARDS)},
    }
    filled = {
        path: fill_sections(path.read_text(), parts) for path, parts in sections.items() if path.is_file()
    }
    return {root / "MODEL_CARDS.md": cards.document(), **filled}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the documents, or with ``--check`` return 1 and name those that are stale."""
    parser = argparse.ArgumentParser(
        prog="python -m vimzoo.cards", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a document is stale"
    )
    options = parser.parse_args(arguments)
    if not (root / "benchmarks").is_dir():
        print(
            "error: vimzoo.cards needs a checkout of the repository, with benchmarks/ and README.md",
            file=sys.stderr,
        )
        return 1
    stale = [path for path, text in documents(root).items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if not options.check:
            path.write_text(documents(root)[path])
        print(f"{path.relative_to(root)} {'is stale; run: make cards' if options.check else 'written'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    run_command(main)
