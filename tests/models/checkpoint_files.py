"""Checkpoint files of the tests: written, read, compared, refused."""

import pytest
import torch

from vimzoo.models.weights.loading import CheckpointError, read_checkpoint

FORMATS = ["zip", "legacy"]


def save(path, content, form="zip"):
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def equal(got, expected):
    return got.keys() == expected.keys() and all(
        torch.equal(got[name], value) and got[name].dtype == value.dtype for name, value in expected.items()
    )


def refused(path, match, **kwargs):
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path, **kwargs)
    assert str(caught.value).startswith(f"{path}: ")
    assert set(torch.serialization.get_safe_globals()) == allowed
    return str(caught.value)
