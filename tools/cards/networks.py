"""Networks of two images or of series in the generated documents: sizes, published scores, and a card each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vimzoo.models.family import Family
from vimzoo.models.inputs import input_shapes
from vimzoo.models.network_facts import NetworkFacts

from .markdown import NOT_MEASURED, finished_card, giga, millions, table, weights_line
from .results import Results
from .sizes import size_of, without_values

Models = Mapping[str, NetworkFacts]


def inputs_line(facts: NetworkFacts) -> str:
    """The inputs by name, with their shapes."""
    shapes = input_shapes(without_values(facts.name))
    return ", ".join(f"`{name}` {' x '.join(map(str, shape))}" for name, shape in shapes.items())


def model_table(models: Models) -> str:
    """One row per model."""
    rows = []
    for name, facts in models.items():
        size = size_of(name)
        counted = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
        rows.append([f"[`{name}`](#{name})", inputs_line(facts), *counted])
    return table(["model", "inputs", "params, M", "GFLOPs", "papers' GFLOPs"], rows)


def card(family: Family, facts: NetworkFacts, results: Results) -> str:
    """Everything that is known about one model."""
    size, kind = size_of(facts.name), type(without_values(facts.name)).__name__
    arguments = ", ".join(f"{key}={value!r}" for key, value in facts.args.items())
    given = f"`{arguments}`, the rest as `{kind}`'s defaults" if arguments else f"`{kind}`'s defaults"
    lines = [f"{facts.purpose[:1].upper()}{facts.purpose[1:]}", f"Inputs {inputs_line(facts)}; {given}"]
    lines.append(f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers')")
    linked = f"Weights: linked from {facts.origin}, for `vimzoo.load_checkpoint(model, FILE)`"
    lines += [linked if facts.linked else weights_line(facts, facts.tag)]
    lines += [f"Published: {score} (arXiv:{facts.paper})" for score in facts.scores]
    if facts.recipe:
        lines.append(f"Training as published: {facts.recipe}")
    lines.append(f"Source: {facts.origin}, arXiv:{facts.paper}")
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
            weights = "file" if facts.linked or facts.weights(facts.tag) else "none"
            recorded = parity["output"] if parity else NOT_MEASURED
            row = [f"`{name}`", inputs_line(facts), weights, millions(size.params)]
            rows.append([*row, giga(size.paper_flops), recorded])
    header = ["model of other inputs", "inputs", "weights", "params, M", "papers' GFLOPs", "parity"]
    return table(header, rows)
