"""The command line of training."""

import contextlib
import math
import os
import re
import sys
from pathlib import Path
from typing import Any


def _remove_empty(folder: Path) -> None:
    """Take back the run folder that Hydra made, and its parents below the current folder, if empty."""
    with contextlib.suppress(OSError):
        while folder.is_relative_to(Path.cwd()) and folder != Path.cwd():
            folder.rmdir()
            folder = folder.parent


def _script_or_command() -> str:
    """What the user typed to start this process: the checkout's script, or the command of an installation."""
    script = Path(sys.argv[0]).name
    return f"python {script}" if script.endswith(".py") else "vimzoo-train"


def main() -> None:
    """Compose the configuration from ``sys.argv`` and train; ``--help`` says how.

    Raises:
        SystemExit: with a status of `vimzoo.commands.Exit`, or 128 plus the number of the signal after which the run
            was saved. Among several runs (``-m``) an error ends one run alone; the summary of the sweep lists it, and
            the status is 1.
    """
    from vimzoo.commands import Exit, listen, report
    from vimzoo.errors import UsageError

    try:
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from hydra.errors import CompactHydraException, MissingConfigException
        from hydra.types import RunMode
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import ConfigAttributeError, ConfigKeyError
    except ImportError as error:
        sys.exit(
            report(UsageError(f"training needs {error.name}; install it with: pip install 'vimzoo[train]'"))
        )
    if sys.version_info >= (3, 14) and hydra.__version__.startswith("1.3."):
        sys.exit(
            report(UsageError("Hydra 1.3 does not start on Python 3.14 or newer; use Python 3.11 to 3.13"))
        )
    from .configuration.composing import config_dir, config_flags, hydra_options, store_registered
    from .configuration.overrides import unreadable
    from .configuration.words import for_hydra, unknown_option
    from .processes.job import job_name
    from .reports.output import patient

    typed = sys.argv[1:]
    sys.argv[1:] = for_hydra(typed)
    several = any(word in ("-m", "--multirun") or word.startswith("hydra.mode=") for word in sys.argv)
    if problem := unreadable(sys.argv[1:], multirun=several):
        sys.exit(report(UsageError(problem)))

    store_registered()
    os.environ["VIMZOO_TRAINER"] = _script_or_command()  # for --help
    os.environ.pop("VIMZOO_JOB", None)
    if job := job_name(os.environ):
        os.environ["VIMZOO_JOB"] = job  # for hydra.run.dir

    composed, traced = False, "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors of composition are raised here, not printed

    @hydra.main(**hydra_options(), config_path=str(config_dir()), config_name="train")
    def run(cfg: DictConfig) -> float:
        nonlocal composed
        if not traced:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        from .checkpoints import lookup
        from .checkpoints.saver import Stopped
        from .configuration.check import check_value
        from .configuration.sweeps import note_failure
        from .configuration.words import applied, as_typed
        from .processes.agree import check_settings
        from .processes.cluster import launched
        from .recover import OutOfMemory
        from .running import launch

        composed, out = True, Path(HydraConfig.get().runtime.output_dir)
        try:
            for key in OmegaConf.missing_keys(cfg):
                raise UsageError(f"{key} is not set; expected {key}=VALUE")
            settings: Any = OmegaConf.to_container(cfg, resolve=True)
            words = as_typed(HydraConfig.get().overrides.task, typed)
            named = any(re.match(r"hydra\.(run|sweep)\.", text) for text in HydraConfig.get().overrides.hydra)
            if (minutes := settings["run"].get("timeout")) is not None:  # what is missing is refused later
                check_value("run.timeout", minutes)
            with launched(minutes) as world:

                def decide() -> dict[str, Any]:
                    begun = lookup.wanted(settings["resume"], out)
                    return applied(lookup.configuration(begun), words, settings) if begun else settings

                check_settings(world, settings)
                decided = world.first(decide)
                if world.size > 1 and settings["data"].get("root"):
                    decided["data"]["root"] = settings["data"]["root"]  # it may lie elsewhere on each machine
                return launch(decided, out, [*config_flags(typed), *words], named, world)
        except (FloatingPointError, UsageError, OutOfMemory, OSError) as error:
            hydra_cfg, diverged = HydraConfig.get(), isinstance(error, FloatingPointError)
            if hydra_cfg.mode == RunMode.MULTIRUN:
                if diverged and "BasicSweeper" not in hydra_cfg.sweeper._target_:
                    print(f"error: {error}", file=sys.stderr, flush=True)  # to a search the worst of results
                else:
                    note_failure(out, hydra_cfg.overrides.task, error)
                return -math.inf
            if not diverged:
                _remove_empty(out)
            sys.exit(report(error))
        except KeyboardInterrupt:
            _remove_empty(out)
            raise
        except Stopped as stop:
            print(stop, file=sys.stderr)
            number = stop.number
        sys.exit(128 + number)  # outside the handler, where nothing holds the loader's processes any more

    listen()
    with patient():
        try:
            run()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(Exit.INTERRUPTED)
        except CompactHydraException as error:
            if composed or traced:
                raise
            cause, text = error.__cause__, f"{error}\n{error.__cause__ or ''}".strip()
            if isinstance(cause, ConfigKeyError | ConfigAttributeError) and str(error).startswith(
                "Could not override"
            ):
                from .configuration.fitting import unknown_setting

                text = unknown_setting(str(cause.full_key), sys.argv[1:])
            if isinstance(error, MissingConfigException):
                text = unknown_option(error)
            sys.exit(report(UsageError(text)))
        finally:
            if not traced:
                os.environ.pop("HYDRA_FULL_ERROR", None)
