"""Fixtures of several files of this folder."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A small state dict of several dtypes and ranks."""
    torch.manual_seed(0)
    return {"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4).half(), "steps": torch.tensor(7)}
