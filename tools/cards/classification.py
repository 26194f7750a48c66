"""Classifiers in the generated documents: a table for each family, and a card for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vimzoo.models.facts import ModelFacts
from vimzoo.models.family import Family

from . import shipped
from .markdown import NOT_MEASURED, errors, giga, machine_line, millions, or_none, table, weights_line
from .results import Results, command
from .sizes import size_of


def model_table(models: Mapping[str, ModelFacts], results: Results) -> str:
    """One row per model."""
    ms = f"ms, {results.threads()}" if results.threads() else "ms"
    header = ["model", "px", "params, M", "GFLOPs", "papers' GFLOPs", "published", "top-1", "top-5"]
    rows = []
    for name, facts in models.items():
        size = size_of(name)
        published, *scores = (str(or_none(figure)) for figure in (facts.gflops, facts.top1, facts.top5))
        counted = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
        link = f"[`{name}`](#{name})"
        rows.append([link, facts.input_size[-1], *counted, published, *scores, results.ms_of(name)])
    return table([*header, ms], rows)


def card(family: Family, facts: ModelFacts, results: Results) -> str:
    """Everything that is known about one model."""
    size = size_of(facts.name)
    arguments = ", ".join(f"{key}={value!r}" for key, value in facts.args.items())
    shape = " x ".join(map(str, facts.input_size))
    lines = [
        f"Input {shape}, {facts.num_classes} classes; `{arguments}`, the rest as `{family.name}`'s defaults"
    ]
    lines += [f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers')"]
    if facts.gflops is not None:
        lines[-1] += f"; published {facts.gflops} ({facts.gflops_source})"
    if facts.top1 is not None:
        top5 = f", top-5 {facts.top5} %" if facts.top5 is not None else ""
        lines.append(f"Published: top-1 {facts.top1} %{top5} on ImageNet-1k ({facts.score_source})")
    lines.append(weights_line(facts, facts.tag))
    lines += shipped.lines(facts, results)
    if facts.recipe:
        lines.append(f"Training: {facts.recipe}")
    lines.append(f"Source: {facts.origin}, arXiv:{facts.paper}")
    if row := results.parity_of(facts.name):
        lines.append(f"Parity with `{row['reference']}`, output / inner / gradient: {errors(row)}")
    if results.ms_of(facts.name) != NOT_MEASURED:
        lines.append(
            f"CPU: {results.ms_of(facts.name)} ms per image ({results.threads()}, {results.speed_machine})"
        )
    lines += [
        f"Authors' name: `{long}`" for long, name in family.authors_names.items() if name == facts.tagged_name
    ]
    if facts.note:
        lines.append(f"Note: {facts.note}")
    return "\n".join([f"### {facts.name}", "", *(f"- {line}" for line in lines)])


def section(family: Family, results: Results) -> str:
    """A family's part of MODEL_CARDS.md."""
    models: Mapping[str, ModelFacts] = family.facts  # type: ignore[assignment]
    parts = [f"## {family.name}\n", model_table(models, results) + "\n"]
    if results.speed["machine"]:
        parts.append(f"Times: {results.speed_machine}, {machine_line(results.speed['machine'])}.\n")
    return "\n".join([*parts, *(card(family, facts, results) + "\n" for facts in models.values())])


def readme_table(families: Sequence[Family], results: Results) -> str:
    """The models in README.md, with the conditions under which their times were measured."""
    header = ["model", "weights", "params, M", "papers' GFLOPs", "published top-1", "parity", "CPU ms"]
    rows = []
    for family in families:
        models: Mapping[str, ModelFacts] = family.facts  # type: ignore[assignment]
        for name, facts in models.items():
            size, parity = size_of(name), results.parity_of(name)
            counted = [millions(size.params), giga(size.paper_flops), str(or_none(facts.top1))]
            weights = "package" if facts.shipped else "hub" if facts.weights(facts.tag) else "none"
            recorded = parity["output"] if parity else NOT_MEASURED
            rows.append([f"`{name}`", weights, *counted, recorded, results.ms_of(name)])
    where = f"{results.speed_machine}, {machine_line(results.speed['machine'])}"
    said = f"CPU ms: one image, float32, {results.threads()}; {where}. By `{command('cpu_each_model')}`."
    return "\n\n".join([table(header, rows), *([said] if results.speed["rows"] else [])])
