"""Checks the prose of the repository: ``python -m tools.prose``, part of ``make lint``.

Two rules:

- **Figures.** A number with a unit of measurement needs a source. Generated parts of a document name theirs. Elsewhere
  a comment ``<!-- figures: SOURCE; SOURCE -->`` in the same paragraph does. A source is a file of the repository that
  holds the number, ``= EXPRESSION`` that gives it, or ``published: WHERE``.
- **Terms.** Documents, docstrings, comments and messages avoid the expressions in the last column of the table of terms
  in docs/README.md.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/*.md", "configs/README.md", "kernels/*/README.md", "findings/README.md")
SOURCES = (
    "vimzoo/**/*.py",
    "kernels/*/*.[ch]*",
    "benchmarks/*.py",
    "tools/**/*.py",
    "configs/**/*.yaml",
    "train.py",
)
UNITS = (
    r"[nmµ]?s|seconds?|minutes?|hours?|days?|[kKMGT]B|[GM]B/s|Gbit/s|dB|decibels?|[GT]FLOPs|TFLOPS|times|fold|%|"
    r"per cent|(?:images|steps|crops|tokens|pictures|files)(?:/s| a second| per second)"
)
NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
FIGURE = re.compile(rf"(?<![\w.,-])({NUMBER})(?:\s*(?:to|-|/|and|or)\s*({NUMBER}))?[ -]?(?:{UNITS})(?!\w)")
MARKER = re.compile(r"<!-- figures: (.*?) -->", re.S)
NOT_PROSE = re.compile(
    r"^```.*?^```$|^    [^\n]*$|<!-- generated:.*?<!-- end -->|`[^`]*`|\]\([^)]*\)", re.M | re.S
)
"""Code, generated parts and the targets of links."""


def blank(match: re.Match[str]) -> str:
    """As many lines as the match has, without its text."""
    return "\n" * match[0].count("\n")


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every paragraph, list item and table row outside of code and generated parts."""
    start, held = 1, ""
    for number, line in enumerate([*NOT_PROSE.sub(blank, text).splitlines(), ""], 1):
        if held and (not line.strip() or re.match(r"\s*(?:[-*|#]|\d+\.) ?", line)):
            yield start, held
            held = ""
        if not held:
            start = number
        held += line + "\n" if line.strip() else ""


def numbers(value: Any) -> Iterator[float]:
    """The single values of the rows of a result file."""
    for row in value["rows"] if isinstance(value, dict) else value:
        yield from (float(cell) for cell in row.values() if isinstance(cell, int | float))


def values(source: str, root: Path) -> list[float] | None:
    """The numbers that a source vouches for; None vouches for all.

    Raises:
        ValueError: the source is neither a file nor an expression nor published.
    """
    if source.startswith("published: "):
        return None
    if source.startswith("= "):
        return [float(eval(source[2:], {"__builtins__": {}}))]
    files = sorted(root.glob(source))
    if not files:
        raise ValueError(f"no such file: {source}")
    found: list[float] = []
    for file in files:
        if file.suffix == ".json":
            found += numbers(json.loads(file.read_text()))
        else:
            found += [
                float(number.replace("_", ""))
                for number in re.findall(r"\d[\d_]*(?:\.\d+)?", file.read_text())
            ]
    return found


def holds(candidates: list[float], figure: str) -> bool:
    """Whether one of the numbers is the figure as it was rounded; a unit may be a thousandth or a hundredth."""
    figure = figure.replace(",", "")
    digits = len(figure.partition(".")[2])
    shown, half = float(figure), 0.5 * 10**-digits + 1e-9
    return any(abs(value * factor - shown) <= half for value in candidates for factor in (1, 1e3, 1e-3, 100))


def unnamed_figures(text: str, root: Path = ROOT) -> list[tuple[int, str]]:
    """Line and fault of every figure of a document whose source is not named or does not hold it."""
    faults = []
    for line, paragraph in paragraphs(text):
        found = [
            number
            for match in FIGURE.finditer(MARKER.sub("", paragraph))
            for number in match.groups()
            if number
        ]
        marker = MARKER.search(paragraph)
        if not found:
            continue
        if not marker:
            faults.append(
                (line, f"{', '.join(found)}: no source; generate it, or add <!-- figures: SOURCE -->")
            )
            continue
        try:
            named = [values(source.strip(), root) for source in marker[1].split(";")]
        except ValueError as error:
            faults.append((line, str(error)))
            continue
        if None not in named:
            known = [value for part in named for value in part or ()]
            faults += [
                (line, f"{figure}: not in {marker[1]}") for figure in found if not holds(known, figure)
            ]
    return faults


def unused_terms(readme: str) -> dict[str, str]:
    """Expressions that are not used -> the term to use, from the table of terms."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", readme.partition("\n## Terms\n")[2], re.M)
    return {phrase: term for term, others in rows for phrase in re.findall(r'"([^"]+)"', others)}


def wrong_terms(text: str, terms: dict[str, str]) -> list[tuple[int, str]]:
    """Line and fault of every expression that is not used, also where a line ends within it."""
    faults = []
    for phrase, term in terms.items():
        pattern = r"(?<![\w-])" + r"[\s#*/]+".join(map(re.escape, phrase.split())) + r"(?![\w-])"
        for match in re.finditer(pattern, text, re.I):
            faults.append((text.count("\n", 0, match.start()) + 1, f'"{phrase}": say {term}'))
    return sorted(faults)


def main(root: Path = ROOT) -> int:
    """Print every fault with its place; return 1 if there is one."""
    readme = (root / "docs" / "README.md").read_text()
    terms, faults = unused_terms(readme), []
    for pattern in (*DOCUMENTS, *SOURCES):
        for path in sorted(root.glob(pattern)):
            text = path.read_text()
            if path == root / "docs" / "README.md":
                text = text.partition("\n## Terms\n")[0]
            found = wrong_terms(text, terms)
            if path.suffix == ".md":
                found += unnamed_figures(text, root)
            faults += [f"{path.relative_to(root)}:{line}: {fault}" for line, fault in sorted(found)]
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
