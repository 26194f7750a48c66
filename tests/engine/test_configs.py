"""Every configuration composes, and its groups fit the functions that they feed."""

import inspect
from typing import Any

import pytest
import timm
from timm.data import Mixup, create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from trainer_helpers import composed

from vimzoo.data import SOURCES
from vimzoo.engine import TASKS
from vimzoo.engine.cli import main
from vimzoo.engine.configuration.check import check_run
from vimzoo.engine.configuration.composing import config_dir
from vimzoo.engine.configuration.fitting import check_fitting
from vimzoo.models.registry import known_facts

OPTIONS = sorted(  # but model=timm, which needs a name, and sweeps, which need a plugin
    f"{path.parent.name}={path.stem}"
    for path in config_dir().glob("*/*.yaml")
    if path.stem != "timm" and path.parent.name != "sweep"
)


def _check_keys(option: str, cfg: dict[str, Any]) -> None:
    """A misspelt key in a group would otherwise surface only when that option is used."""
    group = option.split("=")[0]
    feeds = {
        "sched": create_scheduler_v2,
        "optim": create_optimizer_v2,
        "aug": Mixup,
    }
    if group in feeds:
        keys = set(cfg["aug"]["mixup"] if group == "aug" else cfg[group])
        accepted = set(inspect.signature(feeds[group]).parameters)
        assert keys <= accepted | {"betas"}  # the optimizer's own
    if group == "data":
        (task,) = {t.name for t in TASKS.values() if t.targets == SOURCES[cfg["data"]["source"]].targets}
        check_fitting({**cfg, "task": task})
    if group == "model":
        assert timm.is_model(cfg["model"]["model_name"])
    if group == "aug" and option not in ("aug=digits", "aug=flips", "aug=masks", "aug=clips"):
        create_transform(32, is_training=True, **cfg["aug"]["transform"])


@pytest.mark.parametrize(
    "option",
    [
        *OPTIONS,
        "model=vim_tiny_patch16_224",
        "model=mambair_light_x2",
        "model=timm model.model_name=resnet18",
    ],
)
def test_every_option_composes_and_its_keys_are_arguments(option: str) -> None:
    cfg = composed(*option.split())
    groups = {"model", "optim", "sched", "aug", "run", "data"}
    assert set(cfg) == {*groups, "task", "loss", "teacher", "devices", "deterministic", "resume"}
    check_run(cfg)
    if option in OPTIONS:
        _check_keys(option, cfg)


def test_every_registered_model_is_a_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Composed by its name, and listed by ``--help``, with and without a file of its own."""
    for name in ("vmamba_tiny_s1l8", "mambair_dn", "test_vim"):
        settings = composed(f"model={name}")["model"]
        assert settings["model_name"] == name and settings["pretrained"] is False
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr().out
    (listed,) = (line for line in said.splitlines() if line.startswith("model:"))
    assert {*known_facts(), "timm", "mambair_photos"} <= set(
        listed.removeprefix("model:").replace(",", " ").split()
    )


def test_a_data_set_brings_its_defaults_and_the_command_line_wins() -> None:
    assert composed("data=folder")["aug"] == composed("aug=light")["aug"]
    assert composed("data=folder")["optim"] == composed("optim=adamw")["optim"]
    assert composed("data=folder", "optim=sgd")["optim"]["opt"] == "sgd"
    assert composed("data=folder", "aug=none")["aug"] == composed("aug=none")["aug"]
