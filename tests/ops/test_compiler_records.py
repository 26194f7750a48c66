"""Counts of a compiler are kept per release, and compared only where that release runs."""

from pathlib import Path

import pytest
from compiler_records import assert_as_recorded, benchmark, newest_on_record, on_record


def test_recording_replaces_one_release(tmp_path: Path) -> None:
    """Patch releases share an entry, and 3.10 is newer than 3.9."""
    records = benchmark("sass_records")
    for version, slots in (("3.10.0", 1), ("3.9.0", 2), ("3.9.1+git1", 3)):
        records.record("counts", "Triton", version, {"machine": {}, "rows": [slots]}, "about", tmp_path)
    versions = records.read("counts", tmp_path)["versions"]
    assert [(version, entry["rows"]) for version, entry in versions.items()] == [("3.9", [3]), ("3.10", [1])]


def test_an_unknown_release_skips_and_names_both() -> None:
    with pytest.raises(
        pytest.skip.Exception, match=r"Triton 99\.1 runs here, .* on record for Triton .*3\.9"
    ):
        on_record("sass_triton", "99.1.2")


@pytest.mark.parametrize(("column", "factor"), [("slots", 1.06), ("slots", 0.94), ("local", 2)])
def test_a_changed_count_fails(column: str, factor: float) -> None:
    recorded = newest_on_record("sass_triton")
    changed = {
        name: {**row, column: factor * row[column] + (column == "local")} for name, row in recorded.items()
    }
    assert_as_recorded(recorded, recorded, "shuffles", "shared")
    with pytest.raises(AssertionError):
        assert_as_recorded(changed, recorded)
