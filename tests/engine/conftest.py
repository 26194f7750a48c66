"""Fixtures of the trainer's tests."""

from pathlib import Path

import pytest
from pair_files import make_clean, make_pairs
from trainer_helpers import make_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of ten images without train and val folders."""
    return make_images(tmp_path / "images", {"cat": 10, "dog": 10})


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Ten clean photographs."""
    return make_clean(tmp_path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Five pairs of photographs, the clean ones twice as large."""
    return make_pairs(tmp_path)
