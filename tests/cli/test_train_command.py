"""``python train.py`` as a user types it."""

import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from vimzoo import eval as eval_command
from vimzoo.engine.cli import main
from vimzoo.engine.configuration.overrides import quoted, unreadable
from vimzoo.engine.configuration.sweeps import SweepCheck, storage_problem
from vimzoo.engine.configuration.words import composed_settings

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
QUICK = ["run.epochs=1", "run.limit_batches=2", "data.batch_size=16", "run.device=cpu"]


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Call the command in an empty folder; gives (exit status, stdout, stderr)."""

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        GlobalHydra.instance().clear()
        status: object = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        finally:
            GlobalHydra.instance().clear()
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def images(tmp_path):
    """Two classes of six images, in a folder whose name Hydra would not take."""
    for name in ("cat", "dog"):
        (tmp_path / "a=b" / name).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(np.full((32, 32, 3), 40 * index, np.uint8)).save(
                tmp_path / "a=b" / name / f"{index}.png"
            )
    return "a=b"


def test_the_script_trains_and_ends_with_the_accuracy(tmp_path):
    words = [sys.executable, str(TRAIN), *QUICK]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"test accuracy \d+\.\d %", lines[-1])
    assert sum(line.startswith("epoch ") for line in lines) == 1
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert (folder / "best.pt").is_file() and f"files in {folder.relative_to(tmp_path)}" in lines
    assert len(TRAIN.read_text().splitlines()) <= 40


def test_help_is_ours(call, tmp_path):
    status, text, _ = call("--help")
    assert status == 0 and "python train.py model=vim_tiny_patch16_224 data=folder data.root=DIR" in text
    assert "vimzoo-train" not in text
    for group in ("model: ", "data: ", "digits, folder", "aug: ", "optim: ", "sched: "):
        assert group in text
    lists = ("model: ", "experiment: ", "data: ")
    assert max(len(line) for line in text.splitlines() if not line.startswith(lists)) <= 110
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "optim.lrr=1",
            "error: optim.lrr=1: there is no such setting; similar names: lr; +optim.lrr=1 adds it",
        ),
        (
            "data.fit=crop",
            "error: data.fit=crop: data=digits has no such setting; expected data=masks, which has it",
        ),
        (
            "model=vim_tny",
            "error: model=vim_tny: there is no such model; similar names: vim_tiny_patch16_224, ",
        ),
        (
            "experiment=digit_tests",
            "error: experiment=digit_tests: there is no such experiment; similar names: digits_tests",
        ),
        ("data=zzz", "error: data=zzz: there is no such data; vimzoo-train --help lists all\n"),
        ("sweep=optna", "error: sweep=optna: there is no such sweep; similar names: optuna\n"),
        ("trainer.epochs=9", "error: trainer.epochs=9: there is no such setting; there is run.epochs; "),
        ("experimnt=x", "error: experimnt=x: there is no such setting; similar names: experiment; "),
        ("nonsense", "nonsense"),
        ("run.amp=bf17", "error: run.amp=bf17: expected one of"),
        ("data=folder", "error: data.root is not set"),
        ("model=timm", "error: model.model_name is not set"),
        ("model.x=/a=b", "error: model.x=/a=b: Hydra cannot read this value; quote text: 'model.x=\"/a=b\"'"),
        ("data.root=/a=b", "error: data.root=/a=b: no such folder"),
        (
            "data.root=a,b",
            "error: data.root=a,b: several values need -m, which makes a run of each; quote text: '",
        ),
        ("data.root=2024", "error: data.root=2024: no such folder"),
    ],
)
def test_mistakes_create_nothing(call, tmp_path, word, message):
    status, _, errors = call(*(["data=folder"] if "data.root" in word else []), word)
    assert status == 2 and message in errors
    assert not list(tmp_path.rglob("*.*")) and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "name"), [(["hydra.run.dir=taken/run"], "run"), (["-m", "hydra.sweep.dir=taken/run"], "sweep")]
)
def test_a_run_folder_that_cannot_be_made(words, name, call, tmp_path):
    """Here below a file; on a disk that is only read it is the same."""
    (tmp_path / "taken").touch()
    status, said, errors = call(*words)
    assert status == 2 and not said
    problem = f"hydra.{name}.dir=taken/run: cannot be made (Not a directory); expected a folder to write in"
    assert errors == f"error: {problem}\n"


def test_a_time_limit_that_is_none_is_refused_before_processes_meet(call, monkeypatch):
    for variable, value in {
        "STEP_ID": "0",
        "PROCID": "0",
        "NTASKS": "2",
        "JOB_NODELIST": "localhost",
    }.items():
        monkeypatch.setenv(f"SLURM_{variable}", value)
    for value in ("abc", "-1"):
        status, _, errors = call(f"run.timeout={value}")
        assert status == 2 and errors == f"error: run.timeout={value}: expected a number above 0\n"


def test_hydra_does_not_warn_about_our_use_of_it(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, text, errors = call("--cfg", "job")
        composed_settings(["experiment=vim_tiny", "data.root=DIR"])
    assert status == 0 and "model_name: vim" in text and errors == ""


@pytest.mark.parametrize(
    ("hydra", "sweeper", "works"),
    [
        ("1.3.8", "1.3.0", True),
        ("1.4.0rc3", "1.3.0", False),
        ("1.4.0", "1.2.0", False),
        ("1.4.0", "1.4.0", True),
    ],
)
def test_the_optuna_sweeper_needs_its_hydra(hydra, sweeper, works, monkeypatch, capsys):
    """Releases up to 1.3 fail with a traceback under Hydra 1.4; one sentence comes before."""
    versions = {"hydra-core": hydra, "hydra-optuna-sweeper": sweeper}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    target = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    config = sweep_config(sweeper={"_target_": target})
    if works:
        SweepCheck().on_multirun_start(config)
        return
    with pytest.raises(SystemExit, match="2"):
        SweepCheck().on_multirun_start(config)
    said = capsys.readouterr().err
    assert re.search(r"does not work with hydra-core 1\.4.*: pip install 'hydra-core<1\.4'$", said)


def test_sweeps_are_checked(call, monkeypatch):
    """By the callback of the configuration, before the first run."""

    def check(self, config, **kwargs):
        sys.exit(f"checked {config.hydra.sweeper._target_}")

    monkeypatch.setattr(SweepCheck, "on_multirun_start", check)
    status, _, _ = call("-m", *QUICK)
    assert status == "checked hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def test_python_that_hydra_does_not_start_on(call, monkeypatch):
    """Hydra 1.3's own arguments fail there in argparse, with a traceback."""
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    monkeypatch.setattr("hydra.__version__", "1.3.8")
    problem = "Hydra 1.3 does not start on Python 3.14 or newer; use Python 3.11 to 3.13"
    assert call() == (2, "", f"error: {problem}\n")


def sweep_config(**groups):
    return OmegaConf.create({"hydra": {"sweeper": {}, "launcher": {}, "sweep": {"dir": "."}, **groups}})


def test_slurm_is_looked_for_before_a_sweep(monkeypatch, capsys):
    """Submitit would end with a traceback."""
    launcher = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        SweepCheck().on_multirun_start(sweep_config(launcher=launcher))
    said = capsys.readouterr().err
    assert re.search(r"^error: hydra/launcher=submitit_slurm: no command srun .*submitit_local", said)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    SweepCheck().on_multirun_start(sweep_config(launcher=launcher))


def test_a_study_that_optuna_refuses_is_one_sentence(monkeypatch):
    def get_storage(url):
        raise RuntimeError("Please execute `$ optuna storage upgrade --storage $STORAGE_URL`.\nMore lines.")

    optuna = SimpleNamespace(storages=SimpleNamespace(get_storage=get_storage))
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    assert storage_problem(None) is None
    assert storage_problem("sqlite:///s.db") == (
        "hydra.sweeper.storage=sqlite:///s.db: Please execute `$ optuna storage upgrade --storage sqlite:///s.db`; "
        "or begin a new study: hydra.sweeper.storage=sqlite:///new.db"
    )


@pytest.mark.parametrize(
    "value",
    ["plain", "with space", "/a=b", "a,b", "(new) it's", "été", "{x}", "[1]", "~/x", "12", "null", "C:\\a=b\\",
     '"', 'a\\"=']
)  # fmt: skip
def test_quoted_values_are_read_back(value):
    """Text that Hydra's grammar reads as something else, or not at all."""
    override = OverridesParser.create().parse_override(quoted("data.root", value))
    assert override.value() == value and not override.is_sweep_override()
    assert unreadable([quoted("data.root", value)], multirun=False) is None


def test_words_that_are_no_values_are_left_to_hydra():
    words = [
        "-m",
        "--config-dir=/a=b",
        "~aug",
        "run.seed=1,2",
        "+model.depth=[1,2]",
        "hydra/launcher=submitit_local",
    ]
    assert unreadable(words, multirun=True) is None


def test_suggestions_can_be_pasted(call, tmp_path):
    """Into a shell, with folders that a shell and Hydra's grammar would read otherwise."""
    folder = tmp_path / "my settings"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text(
        "model_name: vim_digits\npretrained: false\nnum_classes: null\n"
    )
    words = ["--config-dir", str(folder), "model=mine", *QUICK, "hydra.run.dir='runs/a, b (1)'"]
    status, text, errors = call(*words)
    assert status == 0, errors
    assert "trained 1 epoch in" in text and "* marks the best epoch so far" in text
    lines = text.splitlines()
    line = lines[lines.index("  # train on from here") + 1]
    again = shlex.split(line)[shlex.split(line).index(f"--config-dir={folder}") :]
    status, text, errors = call(*again)
    assert status == 0 and "trained 2 epochs in" in text, errors


def test_the_backend_and_a_slow_one_are_named(call, monkeypatch):
    monkeypatch.setattr(
        "vimzoo.ops.runtime.native.load", lambda: (None, "the native library was not built (why)")
    )
    status, text, errors = call(*QUICK)
    assert status == 0
    assert re.search(
        r"^model  vim_digits, 0\.14 million parameters, on \d+ CPU threads?, backend reference$", text, re.M
    )
    assert (
        "warning: missing native CPU library: the native library was not built (why)\n  scans take" in errors
    )


def test_a_run_goes_on_with_its_own_settings(call, tmp_path, images):
    """Whatever data and model the configuration's files choose; the folder's name is read as it is."""
    words = [
        "model=timm",
        "model.model_name=test_vit",
        "data=folder",
        f"data.root={images}",
        "data.img_size=32",
    ]
    words += ["data.workers=0", "data.batch_size=4", "run.epochs=1", "optim.lr=1e-3", "run.device=cpu"]
    status, text, errors = call(*words, "hydra.run.dir=runs/lr=1e-3")
    assert status == 0, errors
    longer = next(line for line in text.splitlines() if "train.py" in line and "resume" in line)
    assert shlex.split(longer)[-2:] == ['resume="runs/lr=1e-3"', "run.epochs=2"]
    status, text, errors = call(
        "resume=runs/lr=1e-3", "run.epochs=2", "data.max_unreadable=0.5", "hydra.run.dir=more"
    )
    assert status == 0, errors
    assert "resume runs/lr=1e-3/last.pt, from epoch 2, step " in text
    before, after = (
        yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("runs/lr=1e-3", "more")
    )
    assert after["data"] == {**before["data"], "max_unreadable": 0.5} and after["optim"] == before["optim"]
    assert after["model"] == before["model"] and after["run"] == {**before["run"], "epochs": 2}
    status, _, errors = call("resume=more", "data.rooot=x", "hydra.run.dir=none")
    assert status == 2 and "data.rooot=x: the run has no such setting; similar names: root" in errors
    assert eval_command.main(["runs/lr=1e-3", "data.batch_size=2", "data=folder", f"data.root={images}",
                              "data.img_size=32", "data.workers=0"]) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("word", "extra"), [("sweep=optuna", "sweep"), ("hydra/launcher=submitit_slurm", "cluster")]
)
def test_a_missing_plugin_is_named_with_its_extra(word, extra, monkeypatch):
    monkeypatch.setattr(
        "vimzoo.engine.configuration.overrides.PLUGINS", {word: ("hydra_plugins.no_such_plugin", extra)}
    )
    said = f"{word}: its plugin is not installed; install it with: pip install 'vimzoo[{extra}]'"
    assert unreadable([word], multirun=True) == said


def test_the_demo_page_names_what_it_lacks():
    code = "import runpy, sys; sys.modules['psutil'] = None; runpy.run_module('vimzoo.demo', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "vimzoo[demo]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
