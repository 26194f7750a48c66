"""Segmentation models in the generated documents: sizes, published scores, and a card each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vimzoo.models.facts import SegmentationFacts
from vimzoo.models.family import Family

from .markdown import NOT_MEASURED, finished_card, giga, millions, or_none, table
from .results import Results
from .sizes import size_of

Models = Mapping[str, SegmentationFacts]


def model_table(models: Models) -> str:
    """One row per model."""
    header = ["model", "input", "params, M", "GFLOPs", "papers' GFLOPs", "published GFLOPs"]
    rows = []
    for name, facts in models.items():
        size, shape = size_of(name), " x ".join(map(str, facts.input_size))
        counted = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
        rows.append([f"[`{name}`](#{name})", shape, *counted, str(or_none(facts.gflops or None))])
    return table(header, rows)


def card(family: Family, facts: SegmentationFacts, results: Results) -> str:
    """Everything that is known about one model."""
    size, shape = size_of(facts.name), " x ".join(map(str, facts.input_size))
    arguments = ", ".join(f"{key}={value!r}" for key, value in facts.args.items())
    given = f"; `{arguments}`, the rest as `{family.name}`'s defaults" if arguments else ""
    lines = [f"Input {shape}, {facts.num_classes} classes{given}"]
    lines.append(f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers')")
    lines += [f"Published: {score}" for score in facts.scores]
    if facts.start:
        lines.append(f"Begins with: {facts.start}")
    if facts.recipe:
        lines.append(f"Training: {facts.recipe}")
    origin = f"{facts.origin}, " if facts.origin else ""
    lines.append(f"Source: {origin}arXiv:{facts.paper}")
    return finished_card(facts.name, lines, results.parity_of(facts.name), facts.note)


def section(family: Family, results: Results) -> str:
    """A family's part of MODEL_CARDS.md."""
    models: Models = family.facts  # type: ignore[assignment]
    cards = [card(family, facts, results) + "\n" for facts in models.values()]
    return "\n".join([f"## {family.name}\n", model_table(models) + "\n", *cards])


def readme_table(families: Sequence[Family], results: Results) -> str:
    """The models in README.md."""
    rows = []
    for family in families:
        models: Models = family.facts  # type: ignore[assignment]
        for name, facts in models.items():
            size, parity = size_of(name), results.parity_of(name)
            recorded = parity["output"] if parity else NOT_MEASURED
            rows.append(
                [f"`{name}`", millions(size.params), giga(size.paper_flops), facts.start or "none", recorded]
            )
    return table(["segmentation model", "params, M", "papers' GFLOPs", "begins with", "parity"], rows)
