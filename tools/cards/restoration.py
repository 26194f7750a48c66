"""Restoration models in the generated documents: published PSNR and SSIM by task, and a card each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vimzoo.models.facts import RestorationFacts, Scores
from vimzoo.models.family import Family
from vimzoo.models.registry import find_facts

from . import shipped
from .markdown import NOT_MEASURED, errors, giga, millions, or_none, table, weights_line
from .results import Results
from .sizes import Size, restoration_size

Models = Mapping[str, RestorationFacts]

INTRODUCTION = """\
Sizes are for a result of 1280 x 720 pixels, as published ones are; the published count is of multiply-adds, to compare
with *papers' GFLOPs*, and leaves nothing but rounding and norms between. PSNR in dB and SSIM are **as published**, not
measured here: super-resolution and JPEG on luma, super-resolution without a border of as many pixels as the scale,
denoising on RGB. *8x* averages eight positions of every image.
"""


def counted(facts: RestorationFacts) -> Size:
    """The size of a model on an image whose result has 1280 x 720 pixels, its sides rounded up."""
    depths = tuple(facts.args["depths"]) if facts.uniform else None
    return restoration_size(facts.name, facts.scale, facts.input_size[0], depths)


def _score(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "none"
    psnr, ssim = value
    return f"{psnr:.2f}" if ssim is None else f"{psnr:.2f} / {ssim:.4f}"


def _rows(models: Models, tag: str) -> Iterator[tuple[str, Scores]]:
    """Every model's published scores for a task: scores of one tag, or of one scale."""
    for name, facts in models.items():
        wanted = facts.scale > 1 and tag == f"x{facts.scale}"
        for suffix, published in (("", facts.scores), (", 8x", facts.ensemble)):
            scores = published.get("df2k" if wanted else tag)
            if scores is not None and (wanted or facts.scale == 1):
                yield f"[`{name}`](#{name}){suffix}", scores


def score_tables(models: Models) -> str:
    """Published scores, one table for a scale, noise level, JPEG quality or camera."""
    titles = {f"x{scale}": f"Super-resolution x{scale}" for scale in (2, 3, 4)}
    titles |= {f"sigma{level}": f"Colour denoising, sigma {level}" for level in (15, 25, 50)}
    titles |= {f"q{quality}": f"JPEG artefact removal, grey, quality {quality}" for quality in (10, 30, 40)}
    titles |= {"sidd": "Denoising of real photographs"}
    parts = []
    for tag, title in titles.items():
        rows = list(_rows(models, tag))
        if not rows:
            continue
        sets = list(rows[0][1])
        cells = [[name, *(_score(scores.get(which)) for which in sets)] for name, scores in rows]
        parts.append(f"**{title}**\n\n{table(['model', *sets], cells)}\n")
    return "\n".join(parts)


def size_table(models: Models) -> str:
    """One row per model."""
    header = ["model", "task", "params, M", "GFLOPs", "papers' GFLOPs", "published", "weights"]
    rows = []
    for name, facts in models.items():
        size = counted(facts)
        numbers = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
        tags = ", ".join(facts.files) or weights_of(facts)
        rows.append([f"[`{name}`](#{name})", facts.purpose, *numbers, str(or_none(facts.gmacs)), tags])
    return table(header, rows)


def card(facts: RestorationFacts, parity: Mapping[str, Any] | None, results: Results) -> str:
    """Everything that is known about one model."""
    size, lines = counted(facts), [facts.purpose[:1].upper() + facts.purpose[1:]]
    lines.append(
        f"`{', '.join(f'{key}={value!r}' for key, value in facts.args.items())}`, the rest as defaults"
    )
    lines.append(f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers')")
    lines += [weights_line(facts, tag) for tag in (facts.tags if facts.shipped else facts.files)]
    lines += shipped.lines(facts, results)
    if facts.larger:
        larger = find_facts(facts.larger, "restoration")
        published = larger[0].published(larger[1])["Published PSNR and SSIM"]
        beside = f"; published, on other photographs: {', '.join(published)}" if published else ""
        lines.append(f"Larger: `{facts.larger}`{beside}")
    if not facts.files and facts.scores:
        lines.append(f"Weights: linked from {facts.origin}, for `vimzoo.load_restoration(FILE)`")
    for tag, scores in facts.scores.items():
        said = ", ".join(f"{which} {_score(value)}" for which, value in scores.items())
        lines.append(
            f"Published{f' ({tag})' if len(facts.scores) > 1 else ''}: {said} (arXiv:{facts.paper}, {facts.origin})"
        )
    for tag in facts.recipes:
        which = f" ({tag})" if len(facts.recipes) > 1 else ""
        said = "Training" if facts.shipped else "Training as published"
        lines.append(f"{said}{which}: {facts.training(tag)}")
    lines.append(f"Source: {facts.origin}, arXiv:{facts.paper}")
    if parity:
        lines.append(f"Parity with `{parity['reference']}`, output / inner / gradient: {errors(parity)}")
    if facts.note:
        lines.append(f"Note: {facts.note}")
    return "\n".join([f"### {facts.name}", "", *(f"- {line}" for line in lines)])


def section(family: Family, results: Results) -> str:
    """A family's part of MODEL_CARDS.md."""
    models: Models = family.facts  # type: ignore[assignment]
    cards = [card(facts, results.parity_of(name), results) + "\n" for name, facts in models.items()]
    head = [f"## {family.name}\n", INTRODUCTION, size_table(models) + "\n", score_tables(models)]
    return "\n".join([*head, *cards])


def weights_of(facts: RestorationFacts) -> str:
    """Where a model's weights are: in this package, on the hub, in a file that its authors link to, or nowhere."""
    if facts.shipped:
        return "package"
    return "hub" if facts.files else "file" if facts.scores else "none"


def readme_table(families: Sequence[Family], results: Results) -> str:
    """The models in README.md: one published figure each, of the first data set of the first recipe."""
    rows = []
    for family in families:
        models: Models = family.facts  # type: ignore[assignment]
        for name, facts in models.items():
            size, parity = counted(facts), results.parity_of(name)
            first = next(((s, *next(iter(v.items()))) for s, v in facts.scores.items()), None)
            score = "none"
            if first is not None:
                score = f"{first[1]}{'' if first[0] == 'df2k' else f' {first[0]}'} {first[2][0]:.2f}"
            row = [f"`{name}`", weights_of(facts), millions(size.params), giga(size.paper_flops), score]
            rows.append([*row, parity["output"] if parity else NOT_MEASURED])
    return table(["model", "weights", "params, M", "papers' GFLOPs", "published PSNR, dB", "parity"], rows)
