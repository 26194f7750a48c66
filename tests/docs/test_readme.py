"""The documents do what they say: their blocks and commands are run.

Python blocks run one by one, each in a namespace of its own, in a folder that holds what they name: a checkpoint in the
authors' format and a folder of photographs, both made here. A ``print(...)  # text`` must print that text. The hub is
answered with the file made here. Commands of bash blocks run as written; training gets a few more overrides, so that it
is short. Commands of make, docker and SLURM are looked at rather than run. Blocks that need a library of
tests/crossings/environments.toml are run where it is installed, for which `make test-crossings` sees.
"""

import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.distributed.checkpoint as dcp
from commands import run_python, takes
from documents import DOCUMENTS, ROOT, blocks, commands, composes, libraries, name_of
from torch import nn

import vimzoo
from vimzoo import export, predict, restore
from vimzoo.compat import mambair
from vimzoo.compat import vim as compat
from vimzoo.exporting.formats.web import runtime_folder
from vimzoo.models.vim import VIM_FACTS
from vimzoo.ops import backends

CHECKPOINT = VIM_FACTS["vim_tiny_patch16_224"].hub_file
RESTORATION = "mambairv2_lightSR_x2.pth"
SHORT_RUN = (
    "run.epochs=1 run.limit_batches=3 data.img_size=32 data.batch_size=4 data.workers=0 ++model.depth=2"
)
SHORT_RESTORATION = "run.epochs=1 run.limit_batches=3 data.workers=0 data.crops=12 model.depths=[1]"


def official_file(path: Path) -> None:
    """A file as the authors' training script saves it, with random weights."""
    state = compat.official_state_dict(timm.create_model("vim_tiny_patch16_224"))
    average = {name: tensor * 0.5 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": average, "epoch": 299, "args": Namespace(lr=1e-3)}, path)


SHORT_SEGMENTATION = "run.epochs=1 run.limit_batches=2 data.workers=0 data.batch_size=4 data.img_size=32"

SMALL_RESTORATION = dict(embed_dim=32, depths=[1], d_state=4, window=8, rank=6, num_tokens=10)


def restoration_file(path: Path) -> None:
    """A small MambaIRv2 that doubles sides, as the authors save theirs."""
    torch.manual_seed(0)
    model = timm.create_model("mambairv2_light_x2", **SMALL_RESTORATION)
    torch.save({"params": mambair.official_state_dict(model)}, path)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the blocks name."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("workplace")
    official_file(folder / str(CHECKPOINT))
    restoration_file(folder / RESTORATION)
    for place in ("cat", "dog"):
        (folder / "photos" / place).mkdir(parents=True)
        for i in range(12):
            Image.effect_noise((40, 40), 20 + 10 * i).convert("RGB").save(
                folder / "photos" / place / f"{i}.jpg"
            )
    for kind in ("images", "masks"):
        (folder / "boxes" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = np.zeros((40, 40), np.uint8)
            pixels[i : i + 20, 5:25] = 1 if kind == "masks" else 200
            Image.fromarray(pixels).save(folder / "boxes" / kind / f"{i}.png")
    for place, side in (("sets/low/Set5", 20), ("sets/high/Set5", 40), ("pairs/low", 40), ("pairs/high", 40)):
        (folder / place).mkdir(parents=True)
        for i in range(5):
            Image.effect_noise((side, side), 50).convert("RGB").save(folder / place / f"{i}.png")
    return folder


@pytest.fixture
def hub(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers every download from the hub with the file made here."""

    def download(repository: str, filename: str, **_: object) -> str:
        known = {(facts.hub_id, facts.hub_file) for facts in VIM_FACTS.values()}
        assert (repository, filename) in known
        return str(workplace / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    monkeypatch.setattr("vimzoo.models.weights.hub.unreachable", lambda address: None)


def test_every_document_has_blocks() -> None:
    assert {document.name for document in DOCUMENTS} >= {
        "README.md", "checkpoints.md", "migrating-from-vim.md", "upstream-bugs.md",
    }  # fmt: skip
    assert len(blocks("python")) >= 6 and len(commands()) >= 6
    fences = sum(len(re.findall(r"^```.", document.read_text(), flags=re.M)) for document in DOCUMENTS)
    assert fences == len(blocks("python")) + len(blocks("bash")), "a block in a language that nothing runs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_indented_blocks_are_formulas(document: Path) -> None:
    """What can be run stands between fences, where it is."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    code = re.findall(
        r"^    (?=(?:python|pip|make|docker|srun|torchrun|from|import|#SBATCH)\b).*$", text, re.M
    )
    assert code == []


@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
@pytest.mark.parametrize("block", blocks("python"))
def test_python_block(
    block: str,
    workplace: Path,
    hub: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in libraries(block):
        pytest.importorskip(name, reason=f"needs {name}")
    monkeypatch.chdir(workplace)
    for known in ("_REGISTRY", "_ORDERS"):  # a block registers a backend
        monkeypatch.setattr(backends, known, getattr(backends, known).copy())
    exec(compile(block, "block", "exec"), {"__name__": "block"})
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", block, flags=re.M)
    assert capsys.readouterr().out.splitlines() == expected


def run(command: str | list[str], folder: Path, **environment: str) -> str:
    """Output of a command in ``folder``, with this Python as ``python``; fails with the output."""
    if isinstance(command, str) and takes(shlex.split(command), environment):
        with tempfile.TemporaryDirectory() as logs:
            status, out, err = run_python(command, folder, Path(logs), ROOT)
        assert status == 0, f"{command}\n{out}\n{err}"
        return out
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **environment}
    done = subprocess.run(
        shlex.split(command) if isinstance(command, str) else command,
        cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_make(command: str, workplace: Path) -> None:
    assert run(f"{command} -n -C {ROOT}", workplace), "nothing to do"


def check_training(command: str, workplace: Path) -> None:
    if "--help" in command:
        assert "data.root=DIR" in run(command, ROOT)
        return
    if re.search("photos_denoise|task=restore|fuse_photos|sharpen_photos", command):
        place = tempfile.mkdtemp(dir=workplace)  # not below outputs, where the newest run is looked for
        pairs = "_photos" in command
        short = SHORT_RESTORATION.replace("model.depths=[1]", "") if pairs else SHORT_RESTORATION
        assert ("test SSIM" if "fuse" in command else "test PSNR") in run(
            f"{command} {short} hydra.run.dir={place}/run", workplace
        )
        return
    if "experiment=shapes" in command:
        place = tempfile.mkdtemp(dir=workplace)
        small = command.replace("vmamba_tiny_s1l8", "test_vmamba")
        assert "test mIoU" in run(f"{small} {SHORT_SEGMENTATION} hydra.run.dir={place}/run", workplace)
        return
    if "://" in command:
        command = on_this_machine(command, workplace)
    # Four images of 32 pixels would not make a batch of the largest size
    budget = "data.tokens=2000" if "data.sides" in command else ""
    split = "validation" if "data=shards" in command else "test"  # there are no test shards
    assert f"{split} accuracy" in run(f"{command} {SHORT_RUN} {budget}", workplace).splitlines()[-1]


def on_this_machine(command: str, workplace: Path) -> str:
    """The command with a URL of this machine, and with fewer shards."""
    folder = workplace / "photos"
    if "data=shards" in command:
        folder = workplace / "shards"
        folder.mkdir(exist_ok=True)
        for name in ("train-0000", "train-0001", "val-00"):
            with tarfile.open(folder / f"{name}.tar", "w") as archive:
                for place in range(12):
                    archive.add(workplace / f"photos/cat/{place}.jpg", f"{name}{place}.jpg")
                    (workplace / "cls").write_text(str(place % 2))
                    archive.add(workplace / "cls", f"{name}{place}.cls")
    command = re.sub(r"data.root=\S+://\S+", f"data.root={folder.as_uri()}", command)
    command = re.sub(r"data.cache=\S+", f"data.cache={tempfile.mkdtemp(dir=workplace)}", command)
    return command.replace("{0000..0099}", "{0000..0001}").replace("{00..04}", "{00..00}")


def check_whole(command: str, workplace: Path) -> None:
    tensors = {"model": {"weight": torch.arange(3.0)}}
    dcp.save(tensors, checkpoint_id=workplace / "RUN" / "last.dcp", no_dist=True)
    run(command, workplace)
    found = torch.load(workplace / "whole.pt", weights_only=True)
    assert torch.equal(found["model"]["weight"], tensors["model"]["weight"])


def check_eval(command: str, workplace: Path) -> None:
    """Of restoration with a file of a smaller network than the one that is named; else of the newest run."""
    if "task=restore" in command:
        small = " ".join(f"+model.{key}={value}" for key, value in SMALL_RESTORATION.items())
        said = run(f"{command} {small} data.workers=0", workplace)
        assert "but for" not in said, "weights of another network"
        assert re.search(r"\| Set5 \|\n\| --- \|\n\| -?\d+\.\d\d / -?\d\.\d{4} \|", said)
        return
    have_a_run(workplace)
    assert "top1" in run(command, workplace)


def have_a_run(workplace: Path) -> None:
    """For commands that take the newest run, whichever commands came before them."""
    if not list(workplace.glob("outputs/*/*/metrics.json")):
        check_training("vimzoo-train model=vim_tiny_patch16_224 data=folder data.root=photos", workplace)


def check_doctor(command: str, workplace: Path) -> None:
    assert f"vimzoo {vimzoo.__version__}" in run(command, workplace)


def check_cards(command: str, workplace: Path) -> None:
    assert "--check" in command, "would change the checkout"
    run(command, ROOT)


def check_install(command: str, workplace: Path) -> None:
    """In a copy of the checkout and an environment that borrows this one's packages; kernels are not compiled (CC)."""
    copy, environment = workplace / "checkout", workplace / "environment"
    kept = shutil.ignore_patterns(
        ".*", "build", "outputs", "multirun", "__pycache__", "*.so", "*.egg-info", "tests"
    )
    shutil.copytree(ROOT, copy, ignore=kept)
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], workplace)
    site = environment / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (site / "borrowed.pth").write_text(
        "\n".join(entry for entry in sys.path if entry.endswith("site-packages"))
    )
    python = environment / "bin" / "python"
    pip = environment / "bin" / "pip"
    # the build backend of this environment, where there is one, instead of a download
    backend = "--no-build-isolation" if importlib.util.find_spec("setuptools") else ""
    pip.write_text(f'#!/bin/sh\nexec "{python}" -m pip "$@" {backend}\n')
    pip.chmod(0o755)
    path = f"{pip.parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "CC": "false"}
    run(command, copy, PATH=path, PYTHONPATH="", **settings)
    where = run([str(python), "-c", "import vimzoo; print(vimzoo.__file__)"], workplace, PYTHONPATH="")
    assert Path(where.strip()).is_relative_to(copy)
    assert "data.root=DIR" in run([str(pip.parent / "vimzoo-train"), "--help"], workplace, PYTHONPATH="")


def check_restore(command: str, workplace: Path) -> None:
    """A name's weights are replaced by the file made here, as the hub is out of reach of a process of its own."""
    if check_ray(command):
        return
    if "film.mp4" in command:
        av = pytest.importorskip("av", reason="needs the extra vimzoo[films]")
        _film(av, workplace / "film.mp4")
    if "--with" in command:
        assert run(
            command, _scene(workplace, *re.findall(r"vimzoo.restore (\w+) .* --with (\w+)", command)[0])
        ) == ("1 restored\n")
        return
    place = tempfile.mkdtemp(dir=workplace)  # other commands have the same results
    command = command.replace(" restored ", f" {place}/restored ")
    said = run(re.sub(r"--model \S+", f"--checkpoint {RESTORATION}", command), workplace)
    assert re.fullmatch(r"(model: mambair_mini_x2, .*\n)?\d+ (frames )?restored\n", said)


def _scene(workplace: Path, first: str, second: str) -> Path:
    """A folder with a picture in each of two, and a model of such pictures."""
    from PIL import Image

    folder, kind = Path(tempfile.mkdtemp(dir=workplace)), "spectral" if second == "pan" else "multimodal"
    for name, side in ((first, 32), (second, 32 * 4 if second == "pan" else 32)):
        (folder / name).mkdir()
        image = Image.effect_noise((side, side), 50)
        image.convert("RGB" if name == first else "L").save(folder / name / "a.png")
    model = timm.create_model(f"test_{kind}_fusion_mamba")
    timm.models.save_for_hf(model, folder / "RUN", model_config=model.pretrained_cfg)
    return folder


def _film(av: Any, path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height = 32, 24
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 20 * number, np.uint8))
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def check_export(command: str, workplace: Path) -> None:
    """The file is of a small model and so is its checkpoint; the command is otherwise run as it stands.

    Not so for the browser, which tests/cli/test_web.py has.
    """
    if "--format web" in command:
        assert export.parser().parse_args(shlex.split(command)[3:]).format == "web"
        return
    torch.save({"model": timm.create_model("test_vim").state_dict()}, workplace / "FILE")
    said = run(re.sub(r"vimzoo.export \S+", "vimzoo.export test_vim", command), workplace)
    assert "largest difference" in said


def check_convert(command: str, workplace: Path) -> None:
    assert "model.safetensors" in run(command, workplace)


def check_ray(command: str) -> bool:
    """Whether a command is for a cluster; then its words are known. tests/crossings/test_ray.py runs such commands."""
    if "--engine ray" in command:
        module = {"vimzoo.predict": predict, "vimzoo.restore": restore}[shlex.split(command)[2]]
        assert module.parser().parse_intermixed_args(shlex.split(command)[3:]).engine == "ray"
    return "--engine ray" in command


def check_demo(command: str, workplace: Path) -> None:
    """It would serve until it is interrupted; tests/cli/test_demo.py opens the page in a browser."""
    assert "usage: python -m vimzoo.demo" in run(f"{command} --help", workplace)


def check_served(command: str, workplace: Path) -> None:
    """The folder is one that another command writes."""
    name = shlex.split(command)[-1].removesuffix(".web")
    assert any(f"vimzoo.export {name} " in value.values[0] for value in commands())


def check_npm(command: str, workplace: Path) -> None:
    """The package is the one that the error asks for where it is missing."""
    with pytest.raises(ValueError, match=command):
        runtime_folder()


def check_predict(command: str, workplace: Path) -> None:
    if check_ray(command):
        return
    if file := re.search(r"\S+\.onnx", command):
        tiny = runpy.run_path(str(ROOT / "tests" / "cli" / "exported.py"))["written"]
        tiny("classifier", "onnx", workplace).rename(workplace / file[0])
    if "--masks" in command:
        timm.models.save_for_hf(timm.create_model("test_unet"), str(workplace / "RUN" / "model"))
        assert run(command, workplace).count(".png  predicted/") == 12
        return
    if "--model" not in command:
        have_a_run(workplace)
    assert run(command, workplace).count(".jpg  ") == 24


def check_torchrun(command: str, workplace: Path) -> None:
    """In two processes, as the same command in one."""
    command = command.partition(" '>' ")[0].replace("--nproc-per-node 4", "--standalone --nproc-per-node 2")
    if "vimzoo.predict" in command:
        have_a_run(workplace)
        assert len([json.loads(line) for line in run(command, workplace).splitlines()]) == 24
    elif "vimzoo.restore" in command:
        check_restore(command, workplace)
    else:
        check_eval(command.replace(" outputs/DATE/TIME", ""), workplace)


def check_docker(command: str, workplace: Path) -> None:
    """Its files exist, and what runs in the container is a command that runs here."""
    words = shlex.split(command)
    if words[1] == "build":
        assert (ROOT / words[words.index("--file") + 1]).is_file() and (ROOT / words[-1]).is_dir()
        return
    image = next(place for place, word in enumerate(words) if word.startswith("vimzoo:"))
    built = [value.values[0] for value in commands() if value.values[0].startswith("docker build")]
    assert any(f"--tag {words[image]} " in line for line in built)
    if inside := words[image + 1 :]:
        assert shlex.join(inside) in {value.values[0] for value in commands()}


def check_batch_script(command: str, workplace: Path) -> None:
    """The overrides that `srun` hands to the trainer compose; the status that is tested is 128 + SIGUSR1."""
    if command.startswith("srun"):
        assert composes(command.partition("vimzoo-train ")[2])
    else:
        assert f"-eq {128 + signal.SIGUSR1} " in command


def check_copy(command: str, workplace: Path) -> None:
    """A folder of the checkout goes to where another program looks for it."""
    source, target = (Path(word) for word in shlex.split(command)[-2:])
    (workplace / target).parent.mkdir(parents=True)
    run(command.replace(str(source), str(ROOT / source)), workplace)
    assert (workplace / target / "__init__.py").is_file()


CHECKS = {
    "cp -r integrations": check_copy,
    "docker": check_docker,
    "npm install": check_npm,
    "python -m http.server": check_served,
    "srun": check_batch_script,
    "'[' '$?'": check_batch_script,
    "[ ": check_batch_script,
    "make bench": check_make,
    "make docs": check_make,
    "make train": check_make,
    "make test": check_make,
    "pip install": check_install,
    "python -m vimzoo.doctor": check_doctor,
    "python -m tools.cards": check_cards,
    "python -m vimzoo.convert": check_convert,
    "python -m vimzoo.demo": check_demo,
    "python -m vimzoo.eval": check_eval,
    "python -m vimzoo.export": check_export,
    "python -m vimzoo.predict": check_predict,
    "python -m vimzoo.restore": check_restore,
    "python -m torch.distributed.checkpoint.format_utils": check_whole,
    "torchrun": check_torchrun,
    "vimzoo-train": check_training,
}


@pytest.mark.parametrize("command", commands())
def test_command(command: str, workplace: Path) -> None:
    check = next((check for start, check in CHECKS.items() if command.startswith(start)), None)
    assert check is not None, f"no way to run: {command}"
    check(command, workplace)


def test_made_file_is_of_the_authors_kind(workplace: Path) -> None:
    """Else the blocks that load it would show nothing."""
    with pytest.raises(Exception, match=r"Namespace|weights_only"):
        torch.load(workplace / str(CHECKPOINT))
    assert isinstance(timm.create_model("test_vim"), nn.Module)
