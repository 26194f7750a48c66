"""Classifiers of clips in the generated documents: a table for each family, and a card for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vimzoo.models.facts import VideoFacts
from vimzoo.models.family import Family

from .markdown import NOT_MEASURED, finished_card, giga, millions, table, weights_line
from .results import Results
from .sizes import Size, clip_size


def _scores(facts: VideoFacts) -> str:
    """Published accuracies by tag."""
    return ", ".join(f"{tag} {found.top1}" for tag, found in facts.trained.items()) or "none"


def _counted(facts: VideoFacts) -> Size:
    return clip_size(facts.name, facts.args.get("depth", 24))


def model_table(models: Mapping[str, VideoFacts]) -> str:
    """One row per model."""
    header = ["model", "frames", "px", "params, M", "GFLOPs", "papers' GFLOPs", "published top-1 by tag"]
    rows = []
    for name, facts in models.items():
        size = _counted(facts)
        counted = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
        link = f"[`{name}`](#{name})"
        rows.append([link, facts.num_frames, facts.input_size[-1], *counted, _scores(facts)])
    return table(header, rows)


def card(family: Family, facts: VideoFacts, results: Results) -> str:
    """Everything that is known about one model."""
    size = _counted(facts)
    arguments = ", ".join(f"{key}={value!r}" for key, value in facts.args.items())
    channels, *pixels = facts.input_size
    shape = " x ".join(map(str, (channels, facts.num_frames, *pixels)))
    lines = [
        f"Input {shape}; `{arguments}`, the rest as `{family.name}`'s defaults",
        f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers') for one clip",
    ]
    for tag, found in facts.trained.items():
        views = f"{found.clips} x {found.crops} views"
        lines.append(
            f"{weights_line(facts, tag)}; {found.num_classes} classes, published top-1 {found.top1} % over {views} "
            f"(clips x crops, {facts.score_source}); training: {found.recipe}"
        )
    if not facts.trained:
        lines.append("Weights: none published")
    lines.append(f"Source: {facts.origin}, arXiv:{facts.paper}")
    return finished_card(facts.name, lines, results.parity_of(facts.name), facts.note)


def section(family: Family, results: Results) -> str:
    """A family's part of MODEL_CARDS.md."""
    models: Mapping[str, VideoFacts] = family.facts  # type: ignore[assignment]
    about = "Operations are those of one clip; accuracies are in per cent as published, over several views.\n"
    parts = [f"## {family.name}\n", about, model_table(models) + "\n"]
    return "\n".join([*parts, *(card(family, facts, results) + "\n" for facts in models.values())])


def readme_table(families: Sequence[Family], results: Results) -> str:
    """The models of clips in README.md."""
    header = ["model of clips", "params, M", "papers' GFLOPs", "published top-1 by tag", "parity"]
    rows = []
    for family in families:
        models: Mapping[str, VideoFacts] = family.facts  # type: ignore[assignment]
        for name, facts in models.items():
            size, parity = _counted(facts), results.parity_of(name)
            recorded = parity["output"] if parity else NOT_MEASURED
            counted = [millions(size.params), giga(size.paper_flops)]
            rows.append([f"`{name}`", *counted, _scores(facts), recorded])
    return table(header, rows)
