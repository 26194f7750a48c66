"""The restoration models' part of the generated documents: published PSNR and SSIM by task, and a card each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from functools import cache
from typing import Any

from .card_parts import Size, errors, giga, millions, size_of, table
from .models.mambair.facts import HUB, MAMBAIR_FACTS, ORIGIN, PAPERS, RestorationFacts, Scores

RESULT = (720, 1280)  # height and width that published operation counts are for
ParityOf = Callable[[str], Mapping[str, Any] | None]

INTRODUCTION = """\
Sizes are for a result of 1280 x 720 pixels, as published ones are; the published count is of multiply-adds, to compare
with *papers' GFLOPs*, and leaves nothing but rounding and norms between. PSNR in dB and SSIM are **as published**, not
measured here: super-resolution and JPEG on luma, super-resolution without a border of as many pixels as the scale,
denoising on RGB. *8x* averages eight positions of every image.
"""


@cache
def counted(name: str) -> Size:
    """The size of a model on an image whose result has `RESULT`'s pixels, its sides rounded up to whole pixels.

    All blocks are alike, and so are all groups: networks of one and of two are counted, which takes seconds rather
    than minutes for all models.
    """
    facts = MAMBAIR_FACTS[name]
    unet = "depths" not in facts.args
    step = 8 if unet else facts.scale
    height, width = (-(-side // step) * step // facts.scale for side in RESULT)
    shape = (facts.input_size[0], height, width)
    if unet:
        return size_of(name, shape)
    groups, blocks = len(facts.args["depths"]), sum(facts.args["depths"])
    counts = (astuple(size_of(name, shape, depths=depths)) for depths in ((1,), (2,), (1, 1)))
    return Size(
        *(
            one + (groups - 1) * (grouped - one) + (blocks - groups) * (two - one)
            for one, two, grouped in zip(*counts, strict=True)
        )
    )


def _score(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "-"
    psnr, ssim = value
    return f"{psnr:.2f}" if ssim is None else f"{psnr:.2f} / {ssim:.4f}"


def _rows(tag: str) -> Iterator[tuple[str, Scores]]:
    """Every model's published scores for a task: scores of one tag, or of one scale."""
    for name, facts in MAMBAIR_FACTS.items():
        wanted = facts.scale > 1 and tag == f"x{facts.scale}"
        for suffix, published in (("", facts.scores), (", 8x", facts.ensemble)):
            scores = published.get("df2k" if wanted else tag)
            if scores is not None and (wanted or facts.scale == 1):
                yield f"[`{name}`](#{name}){suffix}", scores


def score_tables() -> str:
    """Published scores, one table for a scale, noise level, JPEG quality or camera."""
    titles = {f"x{scale}": f"Super-resolution x{scale}" for scale in (2, 3, 4)}
    titles |= {f"sigma{level}": f"Colour denoising, sigma {level}" for level in (15, 25, 50)}
    titles |= {f"q{quality}": f"JPEG artefact removal, grey, quality {quality}" for quality in (10, 30, 40)}
    titles |= {"sidd": "Denoising of real photographs"}
    parts = []
    for tag, title in titles.items():
        rows = list(_rows(tag))
        sets = list(rows[0][1])
        cells = [[name, *(_score(scores.get(which)) for which in sets)] for name, scores in rows]
        parts.append(f"**{title}**\n\n{table(['model', *sets], cells)}\n")
    return "\n".join(parts)


def size_table() -> str:
    """One row per model."""
    header = ["model", "task", "params, M", "GFLOPs", "papers' GFLOPs", "published", "weights"]
    rows = []
    for name, facts in MAMBAIR_FACTS.items():
        size = counted(facts.name)
        numbers = [millions(size.params), giga(size.flops), giga(size.paper_flops)]
        published = None if facts.gmacs is None else str(facts.gmacs)
        rows.append([f"[`{name}`](#{name})", facts.task, *numbers, published, ", ".join(facts.files)])
    return table(header, rows)


def card(facts: RestorationFacts, parity: Mapping[str, Any] | None) -> str:
    """Everything that is known about one model."""
    size, lines = counted(facts.name), [facts.task[:1].upper() + facts.task[1:]]
    lines.append(
        f"`{', '.join(f'{key}={value!r}' for key, value in facts.args.items())}`, the rest as defaults"
    )
    lines.append(f"{size.params:,} parameters, {giga(size.flops)} GFLOPs ({giga(size.paper_flops)} papers')")
    for tag, file in facts.files.items():
        where = f"`{file}` in [{HUB}](https://huggingface.co/{HUB})"
        lines.append(f"Weights: `{facts.name}.{tag}`, {where}, apache-2.0")
    if not facts.files and facts.scores:
        lines.append(f"Weights: linked from {ORIGIN}, for `vimzoo.load_restoration(FILE)`")
    for tag, scores in facts.scores.items():
        said = ", ".join(f"{which} {_score(value)}" for which, value in scores.items())
        lines.append(
            f"Published{f' ({tag})' if len(facts.scores) > 1 else ''}: {said} (arXiv:{PAPERS[facts.version]}, {ORIGIN})"
        )
    for tag, words in facts.recipes.items():
        lines.append(f"Training as published{f' ({tag})' if len(facts.recipes) > 1 else ''}: `{words}`")
    lines.append(f"Source: {ORIGIN}, arXiv:{PAPERS[facts.version]}")
    if parity:
        lines.append(f"Parity with `{parity['reference']}`, output / inner / gradient: {errors(parity)}")
    if facts.note:
        lines.append(f"Note: {facts.note}")
    return "\n".join([f"### {facts.name}", "", *(f"- {line}" for line in lines)])


def section(parity_of: ParityOf) -> str:
    """This family's part of MODEL_CARDS.md.

    Args:
        parity_of: Registered name -> row of ``parity.json``, or None.
    """
    cards = [card(facts, parity_of(name)) + "\n" for name, facts in MAMBAIR_FACTS.items()]
    return "\n".join(["## MambaIR\n", INTRODUCTION, size_table() + "\n", score_tables(), *cards])


def readme_table(parity_of: ParityOf) -> str:
    """The models in README.md: one published figure each, of the first data set of the first recipe."""
    rows = []
    for name, facts in MAMBAIR_FACTS.items():
        size, parity = counted(name), parity_of(name)
        first = next(((s, *next(iter(v.items()))) for s, v in facts.scores.items()), None)
        said = (
            None
            if first is None
            else f"{first[1]}{'' if first[0] == 'df2k' else f' {first[0]}'} {first[2][0]:.2f}"
        )
        weights = "yes" if facts.files else "-"
        row = [f"`{name}`", weights, millions(size.params), giga(size.paper_flops), said]
        rows.append([*row, parity and parity["output"]])
    return table(["model", "weights", "params, M", "papers' GFLOPs", "published PSNR, dB", "parity"], rows)
