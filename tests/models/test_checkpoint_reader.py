"""Reading files: every format and wrapper that is in use."""

import argparse
import collections
import datetime
import enum
import pathlib
import pickle
import sys
import threading
import types
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint_files import FORMATS, equal, refused, save
from torch import nn

from vimzoo.models.weights.loading import CheckpointError, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*torch.jit")


# --- formats


@pytest.mark.parametrize("form", FORMATS)
def test_torch_formats(tmp_path, weights, form):
    assert equal(read_checkpoint(save(tmp_path / "w.pth", weights, form)), weights)
    assert equal(read_checkpoint(str(tmp_path / "w.pth")), weights)


@pytest.mark.parametrize("name", ["w.safetensors", "renamed.bin"])
def test_safetensors(tmp_path, weights, name):
    safetensors.torch.save_file(weights, tmp_path / name)
    assert equal(read_checkpoint(tmp_path / name), weights)


def test_recompressed_zip_is_not_mapped(tmp_path, weights):
    plain = save(tmp_path / "w.pth", weights)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    try:
        got = read_checkpoint(tmp_path / "z.pth")
    except CheckpointError:
        return
    assert equal(got, weights)


def test_tensors_outlive_their_file(tmp_path, weights):
    got = read_checkpoint(save(tmp_path / "w.pth", weights))
    save(tmp_path / "w.pth", got)
    assert equal(got, weights)
    (tmp_path / "w.pth").write_bytes(b"")
    assert equal(got, weights)


def test_parameters_become_plain_tensors(tmp_path, weights):
    save(tmp_path / "w.pth", {"a": nn.Parameter(weights["a.weight"])})
    got = read_checkpoint(tmp_path / "w.pth")["a"]
    assert type(got) is torch.Tensor and not got.requires_grad


# --- wrappers


@pytest.mark.parametrize("key", ["model", "state_dict"])
@pytest.mark.parametrize("form", FORMATS)
def test_plain_weights_come_first(tmp_path, weights, key, form):
    ema = {name: value * 2 for name, value in weights.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"optimizer": optimizer, "model_ema": ema, key: weights, "epoch": 3, "scaler": "none"}
    path = save(tmp_path / "w.pth", content, form)
    assert equal(read_checkpoint(path), weights)
    assert equal(read_checkpoint(path, use_ema=True), ema)


@pytest.mark.parametrize("key", ["params_ema", "params-ema"])
def test_the_average_comes_first_in_basicsrs_files(tmp_path, weights, key):
    """BasicSR validates the average and spandrel loads it, whatever the order in the file."""
    ema = {name: value * 2 for name, value in weights.items()}
    for content in ({"params": weights, key: ema}, {key: ema, "params": weights}):
        path = save(tmp_path / "w.pth", content)
        assert equal(read_checkpoint(path), ema)
        assert equal(read_checkpoint(path, use_ema=True), ema)
        assert equal(read_checkpoint(path, use_ema=False), weights)
    assert equal(read_checkpoint(save(tmp_path / "w.pth", {"params": weights, key: {}})), weights)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema_model", "ema"])
def test_ema_keys(tmp_path, weights, key):
    other = {"a.weight": torch.zeros(4, 3)}
    path = save(tmp_path / "w.pth", {"model": other, key: weights})
    assert equal(read_checkpoint(path), other)
    assert equal(read_checkpoint(path, use_ema=True), weights)


def test_a_file_with_only_an_average_gives_it(tmp_path, weights):
    path = save(tmp_path / "w.pth", {"params_ema": weights})
    assert equal(read_checkpoint(path), weights)
    assert equal(read_checkpoint(path, use_ema=True), weights)


@pytest.mark.parametrize("empty", [None, {}, {"decay": 0.9}])
def test_no_average_is_an_error_that_lists_the_keys(tmp_path, weights, empty):
    path = save(tmp_path / "w.pth", {"model": weights, "model_ema": empty, "epoch": 1})
    refused(path, r"no moving average \(EMA\) inside, it has only model, model_ema, epoch", use_ema=True)
    refused(save(path, weights), r"no moving average", use_ema=True)


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.module.", "module._orig_mod."])
def test_wrapper_prefixes(tmp_path, weights, prefix):
    path = save(tmp_path / "w.pth", {"state_dict": {prefix + n: v for n, v in weights.items()}})
    assert equal(read_checkpoint(path), weights)


def test_prefix_of_some_names_only_is_a_name(tmp_path, weights):
    mixed = {"module.a": weights["a.bias"], "b": weights["a.bias"]}
    assert equal(read_checkpoint(save(tmp_path / "w.pth", mixed)), mixed)


def test_averages_as_timm_and_torch_save_them(tmp_path):
    model = nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    nested = {"state_dict": {f"module.{n}": v for n, v in model.state_dict().items()}, "decay": 0.9}
    for ema in (averaged.state_dict(), nested):
        path = save(tmp_path / "w.pth", {"model": {"x": torch.ones(1)}, "model_ema": ema})
        assert equal(read_checkpoint(path, use_ema=True), model.state_dict())


def test_a_key_that_only_shares_the_name(tmp_path, weights):
    assert equal(
        read_checkpoint(save(tmp_path / "w.pth", {"model": "vim_tiny", "state_dict": weights})), weights
    )
    assert equal(read_checkpoint(save(tmp_path / "w.pth", weights | {"model": 3})), weights)


# --- the records of training scripts


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize("form", FORMATS)
def test_records_of_training_scripts(tmp_path, weights, form):
    content = {
        "model": weights,
        "args": argparse.Namespace(lr=1e-3, out=pathlib.PurePosixPath("/a"), sub=argparse.Namespace(x=(1,))),
        "max_accuracy": np.float64(76.1),
        "rng": np.random.RandomState(0).get_state(),
        "array": np.arange(3),
        "started": datetime.datetime(2024, 1, 1),
        "path": pathlib.Path("x"),
        "meters": collections.defaultdict(list, {"loss": [1.0]}),
        "last": collections.deque([1, 2], maxlen=3),
        "simple": types.SimpleNamespace(a=1),
        "size": torch.Size([1]),
    }
    assert equal(read_checkpoint(save(tmp_path / "w.pth", content, form)), weights)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # the second is Python 3.13's name
@pytest.mark.parametrize(
    "name", ["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"]
)
def test_paths_of_every_python(tmp_path, weights, monkeypatch, name, module, form):
    """A path pickles under another module name with Python 3.13; each version reads what each other wrote."""
    members = {"__module__": module, "__reduce__": lambda self: (type(self), ("/a",))}
    written_as = type(name, (), members)
    path = tmp_path / "w.pth"
    with monkeypatch.context() as patch:
        if module not in sys.modules:
            patch.setitem(sys.modules, module, types.ModuleType(module))
        patch.setattr(sys.modules[module], name, written_as, raising=False)
        save(path, {"model": weights, "out": written_as()}, form)
    assert equal(read_checkpoint(path), weights)


def foreign_module(monkeypatch, name):
    """A module as an author's environment has it, gone again when the file is read."""
    module = types.ModuleType(name)
    parts = name.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "where", ["yacs.config.CfgNode", "easydict.EasyDict", "mmcv.utils.config.ConfigDict"]
)
def test_config_classes_that_are_not_installed(tmp_path, weights, monkeypatch, form, where):
    module_name, class_name = where.rsplit(".", 1)
    module = foreign_module(monkeypatch, module_name)

    class CfgNode(dict):
        def __init__(self, *args):
            super().__init__(*args)
            self.__dict__["__immutable__"] = False

    CfgNode.__module__, CfgNode.__name__, CfgNode.__qualname__ = module_name, class_name, class_name
    setattr(module, class_name, CfgNode)
    config = CfgNode({"MODEL": CfgNode({"DIMS": [96, 192], "TYPE": "vssm"}), "AMP": True})
    path = save(tmp_path / "w.pth", {"model": weights, "config": config}, form)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, module_name, None)  # importing it now fails
    assert equal(read_checkpoint(path), weights)


def test_omegaconf(tmp_path, weights, monkeypatch):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"a": [1, 2.0, "x", None, True], "b": {"c": "${a}"}})
    path = save(tmp_path / "w.pth", {"state_dict": weights, "config": config})
    for name in [name for name in sys.modules if name.split(".")[0] == "omegaconf"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert equal(read_checkpoint(path), weights)


def test_an_unknown_class_is_named(tmp_path, weights, monkeypatch):
    path = save(tmp_path / "w.pth", {"model": weights, "colour": Colour.RED})
    assert "Colour" in refused(path, "refused, because loading it would call")


def test_whole_pickled_model_is_named(tmp_path):
    refused(save(tmp_path / "m.pth", nn.Linear(1, 1)), r"would call torch\.nn\.modules\.linear\.Linear")


def test_allow_list_is_put_back_and_kept(tmp_path, weights):
    path = save(tmp_path / "w.pth", {"model": weights, "args": argparse.Namespace()})
    with torch.serialization.safe_globals([argparse.Namespace]):
        before = set(torch.serialization.get_safe_globals())
        read_checkpoint(path)
        assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_threads(tmp_path, weights):
    path = save(tmp_path / "w.pth", {"model": weights, "args": argparse.Namespace(a=1)})
    good = []
    threads = [
        threading.Thread(target=lambda: good.extend(equal(read_checkpoint(path), weights) for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 40
