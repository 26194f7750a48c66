"""Fixtures of the trainer's tests."""

from pathlib import Path

import pytest
from trainer_helpers import make_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of ten images without train and val folders."""
    return make_images(tmp_path / "images", {"cat": 10, "dog": 10})
