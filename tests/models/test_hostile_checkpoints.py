"""Files that would run code, are damaged, or are something else than a checkpoint: each is refused."""

import argparse
import builtins
import contextlib
import importlib
import io
import operator
import os
import pathlib
import pickle
import re
import subprocess
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint_files import FORMATS, refused, save
from torch import nn

from vimzoo.models.weights.loading import CheckpointError, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*torch.jit")


# --- hostile files


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Build:
    """Pickles as `function` with attributes set on what it returns."""

    def __init__(self, function, args, state):
        self.value = function, args, state

    def __reduce__(self):
        return self.value


def attacks(mark):
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {mark}"),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(mark)]),
        "io.open": Call(open, str(mark), "w"),
        "builtins.getattr": Call(getattr, argparse.Namespace(a=1), "a"),
        "operator.methodcaller": Call(operator.methodcaller, "touch"),
        "a method of a known record": Call(pathlib.Path.touch, mark),
        "a class": Call(io.FileIO, str(mark), "w"),
        "a method of an allowed class": Call(torch.Tensor.numpy, torch.ones(1)),
        "torch.serialization.load": Call(torch.load, str(mark)),
        "importlib.import_module": Call(importlib.import_module, "this"),
        "state": Build(argparse.Namespace, (), {"x": Call(os.system, f"touch {mark}")}),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["top", "beside", "in args", "in the state dict"])
@pytest.mark.parametrize("name", attacks("x"))
def test_code_is_never_run(tmp_path, weights, form, place, name):
    mark = tmp_path / "mark"
    attack = attacks(mark)[name]
    content = {
        "top": attack,
        "beside": {"model": weights, "z": attack},
        "in args": {"model": weights, "args": argparse.Namespace(a=[{"b": (attack,)}])},
        "in the state dict": {"model": {**weights, "z": attack}},
    }[place]
    message = refused(save(tmp_path / "evil.pth", content, form), "refused")
    assert not mark.exists()
    assert "nothing was run" in message
    assert " " in name or {"state": "posix.system", "os.system": "posix.system"}.get(name, name) in message


@pytest.mark.parametrize("call", [b")R", b")\x81", b"X\x01\x00\x00\x00a\x85R"])
def test_stand_ins_cannot_be_called(tmp_path, call):
    path = save(tmp_path / "w.pth", {})
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, value in entries.items():
            raw = b"\x80\x02cargparse\nNamespace\n)R" + call + b"."
            new.writestr(name, raw if name.endswith("data.pkl") else value)
    refused(path, "refused by torch's safe reader; nothing was run")


def test_environment_cannot_switch_safety_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "mark"
    refused(save(tmp_path / "evil.pth", Call(os.system, f"touch {mark}")), "refused")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles(tmp_path, protocol):
    mark = tmp_path / "mark"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Call(os.system, f"touch {mark}"), protocol))
    refused(tmp_path / "evil.pth", "refused|not a checkpoint|damaged")
    assert not mark.exists()


def test_builtins_are_not_imported_by_name(tmp_path):
    """The proof that the attacks above would work if anything unpickled them."""
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(attacks(mark)["builtins.exec"]))
    assert mark.exists() and builtins.exec is exec


# --- files that are something else


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML"),
        (b"\n <html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 109\n", "Git LFS pointer"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "JPEG image"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"Not found", "not a checkpoint"),
        (bytes(range(1, 200)), "not a checkpoint"),
        (bytes(4000), "not a checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_not_a_checkpoint(tmp_path, content, reason, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    refused(path, f"{reason}|damaged safetensors" if suffix == ".safetensors" else reason)


def test_missing_file_and_directory(tmp_path):
    refused(tmp_path / "w.pth", "no such file")
    refused(tmp_path, "a directory")


def test_zip_of_images(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("train/0.png", b"x")
    refused(tmp_path / "w.pth", r"not of torch.save; it holds train/0.png")


def test_torchscript(tmp_path):
    torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(str(tmp_path / "w.pth"))
    refused(tmp_path / "w.pth", "TorchScript")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no tensors inside, it has nothing"),
        ({"epoch": 3, "model": {"n": 1}}, "no tensors inside, it has only epoch, model"),
        (torch.ones(3), "no named tensors inside, it holds one Tensor"),
        ([torch.ones(3)], "it holds one list"),
        (None, "it holds one NoneType"),
        (argparse.Namespace(a=1), "no named tensors inside"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_no_tensors(tmp_path, content, reason, form):
    refused(save(tmp_path / "w.pth", content, form), re.escape(reason))


@pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
def test_truncated_anywhere(tmp_path, form):
    weights = {f"layer{i}": torch.randn(40, 10) for i in range(3)}
    path = tmp_path / "w.bin"
    if form == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        save(path, {"model": weights, "args": argparse.Namespace(a=1)}, form)
    whole = path.read_bytes()
    cuts = {1, 2, 4, 8, 9, 20, 60, 100, 200, 300, len(whole) // 2, len(whole) - 1000, len(whole) - 1}
    for cut in sorted(cuts | set(range(0, len(whole), 397))):
        path.write_bytes(whole[:cut])
        refused(path, "truncated|damaged|empty|not a checkpoint|refused")


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_never_escape_as_another_error(tmp_path, weights, form):
    path = save(tmp_path / "w.pth", {"model": weights}, form)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        for position in generator.integers(0, len(whole), 6):
            broken[position] = generator.integers(256)
        path.write_bytes(bytes(broken))
        with contextlib.suppress(CheckpointError):
            assert isinstance(read_checkpoint(path), dict)
