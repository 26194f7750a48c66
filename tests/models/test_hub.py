"""Models travel: timm's hub format for every family, and ``python -m vimzoo.convert`` from the authors' files to it."""

import hashlib
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import vimzoo
from vimzoo import convert
from vimzoo.compat import mambair, vim, vmamba
from vimzoo.layers import SelectiveSSM
from vimzoo.models import CheckpointError, MambaIR
from vimzoo.models.weights.saving import save_for_hf

FAMILIES = {"test_vim": "apache-2.0", "test_vmamba": "apache-2.0", "test_mambair": "apache-2.0"}
OPTIONS = {
    "test_vim": dict(num_classes=7, in_chans=1, img_size=(48, 80), global_pool="avg", bimamba="v1", depth=2),
    "test_vmamba": dict(num_classes=7, in_chans=1, depths=(1, 2), dims=(16, 24), d_state=3, gate="act"),
    "test_mambair": dict(in_chans=1, scale=3, cab="light_feb2024", embed_dim=36, depths=(2,)),
}
OFFICIAL = {"test_vim": vim, "test_vmamba": vmamba, "test_mambair": mambair}


def stirred(name: str, **options: object) -> nn.Module:
    """A model in which every tensor has values of its own."""
    model = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


@torch.no_grad()
def assert_same(found: nn.Module, model: nn.Module, size: tuple[int, int] = (32, 64)) -> None:
    own, other = model.state_dict(), found.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    images = torch.rand(2, model.in_chans, *size)
    assert torch.equal(found.eval()(images), model(images))


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["registered", "changed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_gives_the_same_model(name: str, options: dict, tmp_path: Path) -> None:
    model = stirred(name, **options.get(name, {}))
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    found = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert_same(found, model)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == name and config["num_classes"] == model.num_classes
    assert config["pretrained_cfg"]["license"] == FAMILIES[name]
    assert config["pretrained_cfg"]["origin_url"].startswith("https://github.com/")
    assert config["pretrained_cfg"]["input_size"][0] == model.in_chans
    for key, value in options.get(name, {}).items():
        found_value = config["model_args"][key]
        assert (tuple(found_value) if isinstance(found_value, list) else found_value) == value
    assert found.pretrained_cfg["license"] == FAMILIES[name]


@pytest.mark.parametrize("name", ["test_vim", "test_vmamba"])
def test_a_folder_of_ours_loads_in_transformers(name: str, tmp_path: Path) -> None:
    """transformers passes both ``num_classes`` and ``model_args``, and keeps named parameters in float32."""
    model = stirred(name, num_classes=7)
    save_for_hf(model, tmp_path)
    assert "num_classes" not in json.loads((tmp_path / "config.json").read_text())["model_args"]
    assert_same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model)
    images = torch.rand(2, 3, 64, 64)
    expected = model(images)
    model.to(torch.bfloat16)
    kept = [
        n for n, _ in model.named_parameters() if set(n.split(".")) & set(model._keep_in_fp32_modules_strict)
    ]
    assert len(kept) == sum(isinstance(module, SelectiveSSM) for module in model.modules())
    for parameter in map(model.get_parameter, kept):
        parameter.data = parameter.data.float()
    assert (model(images.bfloat16()).float() - expected).abs().max() <= 5e-2 * expected.std()


def test_a_resized_model_is_saved_as_it_is(tmp_path: Path) -> None:
    model = stirred("vim_tiny_patch16_224", depth=1)
    model.set_input_size((96, 64))
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    assert_same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model, (96, 64))


def test_pickled_weights_load_too(tmp_path: Path) -> None:
    model = stirred("test_vmamba")
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=False)
    assert not (tmp_path / "model.safetensors").exists()
    assert_same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model)


class Hub:
    """The hub's side of timm's calls: what is uploaded lies in a folder and is downloaded from there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def api(self, **_: object) -> "Hub":
        return self

    def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, **_: object) -> bool:
        return False

    def upload_folder(self, *, repo_id: str, folder_path: str, **_: object) -> None:
        shutil.copytree(folder_path, self.folder / repo_id)

    def download(self, repo_id: str, filename: str, **_: object) -> str:
        from huggingface_hub.utils import EntryNotFoundError

        self.asked.append(filename)
        path = self.folder / repo_id / filename
        if not path.is_file():
            raise EntryNotFoundError(filename)
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("timm.models._hub.HfApi", hub.api)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", hub.download)
    monkeypatch.setattr("vimzoo.models.weights.hub.unreachable", lambda address: None)
    return hub


@pytest.mark.parametrize("name", FAMILIES)
def test_pushed_and_pulled(name: str, hub: Hub) -> None:
    model = stirred(name)
    card = convert.model_card(name, model)
    timm.models.push_to_hf_hub(model, "somebody/net", model_card=card, safe_serialization=True)
    assert_same(timm.create_model("hf-hub:somebody/net", pretrained=True), model)
    assert hub.asked == ["config.json", "model.safetensors"]
    assert f"license: {FAMILIES[name]}\n" in (hub.folder / "somebody/net/README.md").read_text()


def test_a_hub_file_with_a_missing_tensor_is_refused(hub: Hub) -> None:
    timm.models.push_to_hf_hub(timm.create_model("test_vim"), "somebody/net", safe_serialization=True)
    path = hub.folder / "somebody/net/model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["norm.weight"]
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(vimzoo.CheckpointError, match=r"1 missing \(norm.weight\)"):
        timm.create_model("hf-hub:somebody/net", pretrained=True)


def authors_file(name: str, model: nn.Module, path: Path) -> Path:
    """A file with the authors' names, wrapped as their training script does it."""
    state = OFFICIAL[name].official_state_dict(model)
    if name == "test_mambair":
        torch.save({"params": state}, path)
    else:
        average = {key: tensor * 0.5 for key, tensor in state.items()}
        torch.save({"model": state, "model_ema": average, "epoch": 3, "args": Namespace(lr=1.0)}, path)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_an_authors_file_becomes_a_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = stirred(name)
    file, folder = authors_file(name, model, tmp_path / "theirs.pth"), tmp_path / "ours"
    assert convert.main([str(file), "--model", name, "--output", str(folder)]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs.pth"]
    assert f"{folder / 'model.safetensors'}  " in capsys.readouterr().out
    assert_same(timm.create_model(f"local-dir:{folder}", pretrained=True), model)
    card = (folder / "README.md").read_text()
    assert f"license: {FAMILIES[name]}\n" in card and hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert f"- **Parameters:** {sum(p.numel() for p in model.parameters()):,}\n" in card


def test_the_moving_average_is_taken_when_asked_for(tmp_path: Path) -> None:
    model = stirred("test_vmamba")
    file = authors_file("test_vmamba", model, tmp_path / "theirs.pth")
    convert.convert(file, "test_vmamba", tmp_path / "ours", use_ema=True)
    found = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True)
    assert torch.equal(found.head.fc.weight, model.head.fc.weight * 0.5)
    assert "the moving average of the weights in theirs.pth" in (tmp_path / "ours/README.md").read_text()


def test_cards_say_what_the_authors_published() -> None:
    """Figures as in the papers' tables, each with its licence; of one tag only."""
    with torch.device("meta"):
        card = convert.model_card("vmamba_tiny_s1l8.in1k", timm.create_model("vmamba_tiny_s1l8"))
        noise = convert.model_card("mambair_dn.sigma25", timm.create_model("mambair_dn"))
    assert (
        card["license"] == "mit" and card["details"]["Published accuracy on ImageNet-1k"][0] == "top-1 82.6 %"
    )
    assert card["details"]["Authors' weights"].endswith("/vssm1_tiny_0230s_ckpt_epoch_264.pth")
    assert noise["details"]["Published PSNR and SSIM"][0] == "CBSD68 31.80 dB"
    assert "ColorDN_MambaIR_level25.pth" in noise["details"]["Authors' weights"]
    assert noise["license"] == "apache-2.0" and noise["details"]["Paper"].endswith("/2402.15648")


def test_an_older_network_keeps_its_form_and_loses_the_scores(tmp_path: Path) -> None:
    options = dict(embed_dim=36, depths=(1,), d_state=4, ratio=1.5, scale=2, upsampler="pixelshuffledirect")
    old = MambaIR(**options, cab="light_mar2024").eval()
    file = tmp_path / "old.pth"
    torch.save({"params": mambair.official_state_dict(old)}, file)
    convert.convert(file, "mambair_light_x2", tmp_path / "ours")
    found = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True)
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(found.eval()(images), old(images))
    card = (tmp_path / "ours/README.md").read_text()
    assert "Not the registered network" in card and "cab='light_mar2024'" in card and "38.13" not in card


def test_a_file_of_other_classes(tmp_path: Path) -> None:
    model = stirred("test_vim", num_classes=7)
    file = authors_file("test_vim", model, tmp_path / "mine.pth")
    with pytest.raises(vimzoo.CheckpointError, match="it has 7 classes and the model 10"):
        convert.convert(file, "test_vim", tmp_path / "ours")
    convert.convert(file, "test_vim", tmp_path / "ours", num_classes=7)
    assert timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).num_classes == 7


REFUSED = {
    "no such model": (["--model", "vim_tiny_patch17_224"], r"no such model.*vim_tiny_patch16_224"),
    "no such tag": (["--model", "test_vim.in22k"], r"no such weights are known; expected test_vim\b"),
    "another model": (["--model", "test_vmamba"], r"theirs.pth: does not fit VMamba"),
    "another task": (["--model", "test_mambair"], r"it looks like Vim, a classifier"),
    "no average": (["--model", "test_vim", "--ema"], r"no moving average"),
    "classes": (["--model", "test_mambair", "--num-classes", "3"], r"--num-classes 3: .* no classes"),
    "folder exists": (["--model", "test_vim", "--output", "."], r"--output \.: exists"),
    "no parent": (["--model", "test_vim", "--output", "a/b"], r"--output a/b: there is no folder a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_leave_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    torch.save({"model": vim.official_state_dict(timm.create_model("test_vim"))}, "theirs.pth")
    assert convert.main(["theirs.pth", "--output", "out", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


def test_another_scale_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x3.pth"
    torch.save({"params": timm.create_model("test_mambair", scale=3).state_dict()}, file)
    with pytest.raises(
        vimzoo.CheckpointError,
        match=r"holds a MambaIR x3 of 3 channels; test_mambair\.photos is a MambaIR x2",
    ):
        convert.convert(file, "test_mambair", tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vim_tiny_patch16_224", "vim_t_midclstok_76p1acc.pth"),
        ("vmamba_tiny_s1l8", "vssm1_tiny_0230s_ckpt_epoch_264.pth"),
    ],
)
def test_weights_out_of_reach_are_named_at_once(
    name: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the retries of the hub's own client."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(
        "timm.models._hub.hf_hub_download", lambda *_, **__: pytest.fail("asked all the same")
    )
    with pytest.raises(
        CheckpointError, match=rf"^{name}: its weights {file} .*no network here.*dict\(file='{file}'\)$"
    ):
        timm.create_model(name, pretrained=True, cache_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["vim_tiny_patch16_384", "vmamba_tiny_m2", "mambair_light_x3"])
def test_models_without_published_weights_say_so(name):
    with pytest.raises(
        CheckpointError,
        match=rf"^{name}: no published weights of this model are known; give a file instead: ",
    ):
        timm.create_model(name, pretrained=True)
