"""Files that an older version exported still run: they hold the operators' names and argument lists."""

import gzip
from pathlib import Path

import pytest
import torch

import vimzoo.ops  # noqa: F401  registers the operators that the files call

FILES = Path(__file__).parent / "older_files"
"""Written by commit 2e66a0c with torch 2.8; NAME.pt holds images and what the model returned for them."""


def unpacked(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(gzip.decompress((FILES / f"{name}.gz").read_bytes()))
    return path


@pytest.mark.parametrize("kind", ["ts", "pt2"])
@pytest.mark.parametrize("model", ["test_vim", "test_vmamba", "test_mambair"])
def test_older_file(model: str, kind: str, tmp_path: Path) -> None:
    recorded = torch.load(unpacked(f"{model}.pt", tmp_path), weights_only=True)
    path = unpacked(f"{model}.{kind}", tmp_path)
    run = torch.jit.load(str(path)) if kind == "ts" else torch.export.load(path).module()
    with torch.no_grad():
        output = run(recorded["images"])
    difference = (output - recorded["output"]).abs().max() / recorded["output"].std()
    assert difference < 3e-5
