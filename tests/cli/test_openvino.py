"""OpenVINO's library is asked for in the right words where something is missing; tests/crossings runs it."""

import importlib.util
import shutil

import pytest

import vimzoo
from vimzoo.errors import UsageError


@pytest.mark.parametrize("missing", ["openvino", "compiler"])
def test_what_the_extension_needs(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("openvino", __file__)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if missing == "openvino" else spec)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    vimzoo.openvino_extension.cache_clear()
    expected = "pip install 'vimzoo\\[openvino\\]'" if missing == "openvino" else "expected c\\+\\+, g\\+\\+"
    with pytest.raises(UsageError, match=expected):
        vimzoo.openvino_extension()
