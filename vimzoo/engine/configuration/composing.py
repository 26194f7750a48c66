"""How Hydra composes a configuration: from the folder configs/, and from registered sources and models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def config_dir() -> Path:
    """The folder with train.yaml: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    folders = [package / "configs", package.parent / "configs"]
    return next((folder for folder in folders if (folder / "train.yaml").is_file()), folders[0])


def hydra_options() -> dict[str, Any]:
    """Keyword arguments of ``hydra.main`` that depend on Hydra's version.

    Hydra 1.3 warns without ``version_base``. Hydra 1.4 warns with it, and wants the classes that a configuration may
    name from the program.
    """
    options: dict[str, Any] = version_base()
    return options or {"execution_whitelist": ["vimzoo.engine.configuration.sweeps.SweepCheck"]}


def version_base() -> dict[str, str]:
    """``version_base`` for Hydra 1.3, which warns without it; nothing for 1.4, which warns with it."""
    import hydra

    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def config_flags(words: Sequence[str]) -> list[str]:
    """Hydra's flags of a command line that say where configurations lie, in the form ``--config-dir=DIR``."""
    flags = ("--config-dir", "-cd"), ("--config-name", "-cn"), ("--config-path", "-cp")
    parser = argparse.ArgumentParser(add_help=False)
    for flag in flags:
        parser.add_argument(*flag)
    given, _ = parser.parse_known_args([word for word in words if word not in ("-c", "-m")])
    return [f"--{name.replace('_', '-')}={value}" for name, value in vars(given).items() if value is not None]


def store_registered() -> None:
    """Let ``data=NAME`` and ``model=NAME`` choose whatever is registered, also without a file configs/GROUP/NAME.yaml.

    The settings of a source of `vimzoo.data.SOURCES` are then its arguments with their defaults, and those of the
    loader; the settings of a model are those of `vimzoo.models.registry.configurations`.
    """
    from hydra.core.config_store import ConfigStore

    from vimzoo.data import SOURCES
    from vimzoo.models.registry import configurations

    loader = {"batch_size": 64, "workers": None}
    sources = {name: {"source": name, **loader, **source.defaults()} for name, source in SOURCES.items()}
    store = ConfigStore.instance()
    for group, settings in (("data", sources), ("model", configurations())):
        for name, values in settings.items():
            file = f"{name}.yaml"
            if not (config_dir() / group / file).is_file() and file not in store.repo.get(group, {}):
                store.store(name, values, group)


def compose_settings(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that Hydra composes from overrides, with all interpolations resolved.

    Raises:
        HydraException, OmegaConfBaseException: an override does not fit.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    store_registered()
    with initialize_config_dir(**version_base(), config_dir=str(config_dir())):
        return OmegaConf.to_container(compose("train", overrides=list(words)), resolve=True)  # type: ignore[return-value]
