"""Figures name a source, terms are those of the table: the check of ``make lint``, on the repository and on faults."""

import json
from pathlib import Path

import pytest

from tools import prose

TERMS = """# Documentation

## Terms

| term | meaning | not |
| --- | --- | --- |
| interleaved | round after round | "in turns", "by turns" |
| state | N numbers | |
"""


def test_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert prose.main() == 0, capsys.readouterr().out


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a result of 12.3 ms and 0.95, and a setting of 30 seconds."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text(TERMS)
    rows = [{"ms": 12.345, "share": 0.95, "times": {"low": 99.0}}]
    (tmp_path / "result.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "setting.py").write_text("WAIT = 30.0\n")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "No figure, 12 models, version 1.2, `12 ms` and [text](a12%20b).",
        "```bash\nsleep 12 ms\n```",
        "    12 ms",
        "<!-- generated:x -->\nIt takes 12 ms.\n<!-- end -->",
        "It takes 12.3 ms. <!-- figures: result.json -->",
        "It takes 0.0123 s, 95 % of it here. <!-- figures: result.json -->",
        "It waits 30 seconds. <!-- figures: setting.py -->",
        "It takes 8 to 12 ms. <!-- figures: result.json; = 16 / 2 -->",
        "It takes 77 ms. <!-- figures: published: arXiv:1234.5678 -->",
    ],
)
def test_figures_that_may_stand(text: str, root: Path) -> None:
    assert prose.unnamed_figures(text, root) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("It takes 12.3 ms.", "no source"),
        ("It is 3 times as large.", "no source"),
        ("One.\n\n<!-- figures: result.json -->\n\nIt takes 12.3 ms.", "no source"),
        ("- It takes 12.3 ms. <!-- figures: result.json -->\n- It takes 12.3 ms.", "no source"),
        ("It takes 12.4 ms. <!-- figures: result.json -->", "12.4: not in result.json"),
        ("It takes 99 ms. <!-- figures: result.json -->", "99: not in"),
        ("It takes 8 to 13 ms. <!-- figures: result.json; = 16 / 2 -->", "13: not in"),
        ("It takes 12.3 ms. <!-- figures: gone.json -->", "no such file: gone.json"),
    ],
)
def test_figures_that_may_not_stand(text: str, fault: str, root: Path) -> None:
    ((line, said),) = prose.unnamed_figures(text, root)
    assert fault in said
    assert "ms" in text.splitlines()[line - 1] or "times" in text.splitlines()[line - 1]


def test_terms(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "README.md").write_text("All are timed in\nturns. A turn-by-turns list.\n")
    folder = root / "vimzoo"
    folder.mkdir()
    (folder / "x.py").write_text('"""Fine."""\n\n# Timed in\n# turns\n')
    assert prose.main(root) == 1
    said = capsys.readouterr().out
    assert said == ('README.md:1: "in turns": say interleaved\nvimzoo/x.py:3: "in turns": say interleaved\n')
