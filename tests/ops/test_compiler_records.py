"""``benchmarks/sass_records.py`` keeps a compiler's counts per release."""

from pathlib import Path

from benchmark_scripts import benchmark


def test_recording_replaces_one_release(tmp_path: Path) -> None:
    """Patch releases share an entry, and 3.10 is newer than 3.9."""
    records = benchmark("sass_records")
    for version, slots in (("3.10.0", 1), ("3.9.0", 2), ("3.9.1+git1", 3)):
        records.record("counts", "Triton", version, {"machine": {}, "rows": [slots]}, "about", tmp_path)
    versions = records.read("counts", tmp_path)["versions"]
    assert [(version, entry["rows"]) for version, entry in versions.items()] == [("3.9", [3]), ("3.10", [1])]
