"""Restore photographs and films: ``python -m vimzoo.restore INPUT OUTPUT [--model NAME | --checkpoint FILE]``.

Without a model the sides are doubled by a small one whose weights are part of the package.
Started by torchrun, the processes share the pictures of a folder or the parts of a film, and process 0 reports.
The exit status is 1 if a picture failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from .commands import Exit, Parser, run_command, slow_half, whole_number
from .engine.processes.devices import add_devices
from .engine.processes.parallel import World
from .engine.processes.ray_data import add_engine, over_cluster
from .engine.processes.sharing import in_turn, share, share_stream, shared_command
from .errors import UsageError, first_line
from .exporting.running import RUNNERS, RUNTIME_HELP, RestorationFile, exported
from .film.arguments import FILM_OPTIONS, check_kind, is_film
from .film.arguments import add_arguments as add_film_arguments
from .models.registry import known_facts
from .models.routes import ROUTINGS

if TYPE_CHECKING:
    from .engine.processes.ray_data import Do
    from .models.restoration_base import RestorationModel
    from .restoration import Job, Report, Restorer
    from .restoration.two_pictures import OfTwo

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES |= {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
DEFAULT = "mambair_mini_x2"
"""The model if none is named."""
TILES = ("auto", "none", "official")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = Parser(
        prog="python -m vimzoo.restore",
        description="Restore a picture, all pictures of a folder, or a film: super-resolution, denoising or removal of "
        "JPEG artefacts, depending on the model.",
    )
    command.add_argument(
        "input",
        type=_place,
        help="a picture, a folder of pictures, or a film; with --engine ray a folder or URL",
    )
    command.add_argument(
        "output", type=_place, help="a file or a folder; a folder gets the same tree as the input"
    )
    command.add_argument(
        "--with", metavar="FILE_OR_FOLDER", type=Path,
        help="a second picture of each scene for a model of two: infrared to be joined with the input, or finer pixels",
    )  # fmt: skip
    command.add_argument(
        "--peak", metavar="NUMBER", type=float,
        help="with --with: the number in files that becomes 1, such as 2047 for 11 bits (default: that of the run, or "
        "the largest of the type)",
    )  # fmt: skip
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--model",
        metavar="NAME",
        help="a registered name, with its published weights, a folder, or an exported file "
        f"(default: {DEFAULT}, whose weights are part of this package)",
    )
    weights.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="weights file; the architecture is inferred from it"
    )
    command.add_argument("--runtime", choices=RUNNERS, help=RUNTIME_HELP)
    command.add_argument(
        "--ema", action=argparse.BooleanOptionalAction,
        help="use the checkpoint's moving average, or its trained weights (default: those that were evaluated)",
    )  # fmt: skip
    tiles = command.add_argument_group("tiles")
    tiles.add_argument(
        "--tile", metavar="N|auto|none|official", type=_tile, default="auto",
        help="side of the largest tile in input pixels; auto: as large as memory allows; none: the whole picture; "
        "official: the papers' tiling (default: auto)",
    )  # fmt: skip
    tiles.add_argument(
        "--overlap",
        metavar="N",
        type=whole_number(0),
        help="overlap of neighbouring tiles in pixels (default: 32)",
    )
    tiles.add_argument(
        "--batch", metavar="N", type=whole_number(1), default=1, help="tiles per batch (default: 1)"
    )
    quality = command.add_argument_group("result")
    quality.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average over 8 flips and rotations, for 8 times the work",
    )
    quality.add_argument(
        "--dtype", choices=DTYPES, default="fp32", metavar="fp32|bf16|fp16", help="precision (default: fp32)"
    )
    quality.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0),
        default=0,
        help="seed of MambaIRv2's random routes (default: 0)",
    )
    quality.add_argument(
        "--routing",
        choices=ROUTINGS,
        help="routes of MambaIRv2: random or the likeliest (default: as the weights record)",
    )
    quality.add_argument(
        "--format",
        choices=("png", "jpg", "tif", "webp", "avif", "jxl", "exr"),
        help="output format (default: that of the output's name or of each input)",
    )
    quality.add_argument(
        "--quality", metavar="1..100", type=whole_number(1, 100), default=95,
        help="quality of JPEG, WebP, AVIF and JPEG XL; 100 is lossless, except for JPEG (default: 95)",
    )  # fmt: skip
    add_film_arguments(command)
    command.add_argument(
        "--pages", choices=("refuse", "first", "all"), default="refuse",
        help="what to do with files of several pages or frames; all: a TIFF file of as many (default: refuse)",
    )  # fmt: skip
    command.add_argument(
        "--extra-bands", choices=("restore", "copy", "refuse"), default="restore",
        help="what to do with bands besides grey, colour and alpha (default: restore each like a grey picture)",
    )  # fmt: skip
    command.add_argument(
        "--existing",
        choices=("skip", "overwrite"),
        default="skip",
        help="what to do with existing results (default: skip)",
    )
    command.add_argument(
        "--max-pixels", metavar="N", type=whole_number(1),
        help="reject larger inputs, because a small file may unpack to any size (default: 200 million)",
    )  # fmt: skip
    device = command.add_mutually_exclusive_group()
    device.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if available)")
    add_devices(device)
    add_engine(command)
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    return command


def _place(text: str) -> Path | str:
    return text if "://" in text else Path(text)


def _tile(text: str) -> int | str:
    if text in TILES:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of pixels or {', '.join(TILES)}, got {text!r}")
    return int(text)


def load_file(options: argparse.Namespace) -> RestorationFile | None:
    """The exported file that is asked for; None if it is another kind of model.

    Raises:
        UsageError: it cannot be run.
    """
    refused = {name: getattr(options, name) for name in ("checkpoint", "ema", "routing")}
    device = None if options.device == "cpu" else options.device
    file = exported(options.model, options.runtime, DTYPES[options.dtype], **refused, device=device)
    if file is None or isinstance(file, RestorationFile):
        return file
    raise UsageError(f"--model {options.model}: a classifier; expected a restoration model")


def _of_two(options: argparse.Namespace) -> OfTwo:
    """The model of two pictures that is asked for.

    Raises:
        UsageError: it is not one, or has not the options.
    """
    from .restoration.two_pictures import model_of_two

    if options.model is None:
        raise UsageError("--with: expected --model, the run folder or name of a model of two pictures")
    for name in ("runtime", "ema", "routing", "engine"):
        if (value := getattr(options, name)) is not None:
            raise UsageError(f"--{name} {value}: expected without --with")
    settings, peak = Path(options.model) / "config.yaml", options.peak
    if peak is None and settings.is_file():  # of a run
        peak = yaml.safe_load(settings.read_text())["data"].get("peak")
    model = model_of_two(options.model, peak)
    if options.self_ensemble and model.sharpens:
        raise UsageError("--self-ensemble: expected without --with for a model that sharpens")
    return model


def load_model(options: argparse.Namespace) -> RestorationModel:
    """The model that is asked for.

    Raises:
        UsageError: its weights are not available.
    """
    from .restoration import restoration_model

    if options.checkpoint is None and options.ema is not None:
        raise UsageError("--ema: published weights have no moving average; expected it with --checkpoint")
    return restoration_model(options.model, options.checkpoint, use_ema=options.ema)


def advice(name: str) -> str:
    """A line about a model whose weights are part of the package, and the larger one; else empty."""
    facts = known_facts("restoration").get(name.partition(".")[0])
    larger = getattr(facts, "larger", "")
    if facts is None or not larger:
        return ""
    other = "" if name != DEFAULT else "; --model mambair_mini_dn removes noise instead"
    return (
        f"model: {facts.name}, {facts.purpose}, small and fast; --model {larger} is better and slower{other}"
    )


def run(options: argparse.Namespace, world: World | None = None) -> Report:
    """Restore as the parsed arguments say.

    Args:
        world: the processes that share the pictures; of these process 0 gets the report of all.

    Raises:
        ValueError: the request cannot be met; nothing has been written.
    """
    from .restoration import MAX_PIXELS, claim_results, find_jobs, restore_files
    from .restoration.two_pictures import with_others

    world = world or World()
    jobs: list[Job] = []  # of process 0; the others get their parts from it
    suffix = f".{options.format}" if options.format else None
    second = getattr(options, "with")

    def find() -> None:
        found = find_jobs(options.input, options.output, suffix)
        jobs.extend(found if second is None else with_others(found, options.input, second))

    world.first(find)
    restorer = in_turn(lambda: _restorer(options), world)
    if world.main:
        slow_half(DTYPES[options.dtype], restorer.device, "--dtype")
    if options.input.is_dir():
        world.first(lambda: claim_results(options.output, restorer, jobs, options.existing))
    return restore_files(
        jobs,
        restorer,
        existing=options.existing,
        quality=options.quality,
        max_pixels=options.max_pixels or MAX_PIXELS,
        extra_bands=options.extra_bands,
        pages=options.pages,
        quiet=options.quiet or not world.main,
        shared=partial(share_stream, world=world) if world.size > 1 else None,
    )


def _check_places(options: argparse.Namespace) -> None:
    """Refuse URLs that are not for a cluster, and films that are."""
    for place in (options.input, options.output):
        if isinstance(place, str) and options.engine is None:
            raise UsageError(f"{place}: expected a file or folder; --engine ray takes URLs")
    if options.engine is not None and is_film(Path(options.input)):
        raise UsageError(f"{options.input}: is a film; --engine ray takes folders of pictures, or their URLs")


def run_film(options: argparse.Namespace, world: World) -> int:
    """Restore a film as the parsed arguments say, and print a summary; returns the exit status.

    Args:
        world: the processes that share the film; process 0 writes it.

    Raises:
        ValueError: the request cannot be met; nothing has been written.
    """
    from .restoration import MAX_PIXELS

    try:
        from .film.segments import Segments
        from .restoration.film import FilmRequest, restore_film
    except ModuleNotFoundError as error:
        raise UsageError(f"{options.input}: films need PyAV; pip install 'vimzoo[films]'") from error
    request = FilmRequest(
        options.input,
        options.output,
        max_pixels=options.max_pixels or MAX_PIXELS,
        **{name: getattr(options, name) for name in FILM_OPTIONS},
    )
    if world.first(lambda: options.existing == "skip" and options.output.is_file()):
        if world.main:
            print("0 frames restored, as the result exists (--existing overwrite)")
        return Exit.OK
    restorer = in_turn(lambda: _restorer(options), world)
    if world.main:
        slow_half(DTYPES[options.dtype], restorer.device, "--dtype")
    try:
        report = restore_film(
            request,
            restorer,
            overwrite=options.existing == "overwrite",
            quiet=options.quiet,
            shared=partial(share, world=world) if world.size > 1 else None,
            main=world.main,
        )
    except (FloatingPointError, MemoryError, OSError, RuntimeError) as error:
        print(f"failed: {options.input}: {first_line(error)}; finished parts are kept", file=sys.stderr)
        return Exit.FAILED
    except KeyboardInterrupt:
        if world.main:
            kept = Segments(options.output).count()
            print(f"interrupted: {kept} frames restored; the same command continues", file=sys.stderr)
        return Exit.INTERRUPTED
    if not world.main:
        return Exit.OK
    before = f", {report.resumed} of them in an earlier run" if report.resumed else ""
    print(f"{report.frames} frames restored{before}")
    for text in report.damage:
        print(f"damaged: {options.input}: {text}", file=sys.stderr)
    return Exit.OK


def run_on_ray(options: argparse.Namespace) -> Report:
    """Restore a folder or URL over a cluster of Ray, as the parsed arguments say.

    Raises:
        ValueError: the request cannot be met; nothing has been written.
    """
    from tqdm import tqdm

    from .restoration import Job, Report
    from .restoration.urls import UrlFolder

    if options.device is not None:
        raise ValueError("--device: expected without --engine ray, which chooses the devices")
    folder = UrlFolder(
        str(options.input), str(options.output), f".{options.format}" if options.format else None
    )
    names, others = folder.find()
    if others:
        print(f"{folder.source}: left out: {others.total()} files of other kinds", file=sys.stderr)
    skipped = folder.done(names) if options.existing == "skip" else []
    folder.claim(_restorer(options), bool(skipped))
    left = sorted(set(names) - set(skipped))

    def job(name: str) -> Job:
        return Job(Path(name), Path(folder.result(name)))  # within the two folders

    report = Report(skipped=[job(name) for name in skipped])
    with tqdm(total=len(left), unit="picture", disable=options.quiet) as bar:
        for name, reason in (
            over_cluster(partial(_on_ray, options, folder), left, options.workers) if left else ()
        ):
            if reason:
                report.failed.append((job(name), reason))
            else:
                report.restored.append(job(name))
            bar.update()
    return report


def _on_ray(options: argparse.Namespace, folder: Any) -> Do:
    """What a worker of Ray does with the names of pictures."""
    from .restoration import MAX_PIXELS
    from .restoration.stream import Options

    asked = Options(options.quality, options.max_pixels or MAX_PIXELS, options.extra_bands, options.pages)
    return partial(folder.restore, restorer=_restorer(options), options=asked)


def _restorer(options: argparse.Namespace) -> Restorer:
    from .restoration import Restorer

    second = getattr(options, "with")
    if second is None and options.peak is not None:
        raise UsageError(f"--peak {options.peak:g}: expected with --with")
    if second is not None and options.peak is not None and not options.peak > 0:
        raise UsageError(f"--peak {options.peak:g}: expected a positive number")
    file = load_file(options) if second is None else None
    device = "cpu" if file else options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # RuntimeError, AssertionError, AcceleratorError: by device and version
        raise ValueError(f"--device {device}: not available ({first_line(error)})") from error
    return Restorer(
        file or (load_model(options) if second is None else _of_two(options)),
        tile=options.tile,
        overlap=options.overlap,
        batch=options.batch,
        self_ensemble=options.self_ensemble,
        dtype=DTYPES[options.dtype],
        seed=options.seed,
        routing=options.routing,
        device=device,
    )


def command(options: argparse.Namespace, world: World) -> int:
    """Restore pictures and print a summary; returns the exit status.

    Raises:
        UsageError: the request cannot be met.
    """
    if options.model is None and options.checkpoint is None and getattr(options, "with") is None:
        options.model = DEFAULT
    _check_places(options)
    check_kind(options, parser())
    if world.main and options.model and (said := advice(options.model)):
        print(said)
    try:
        from tqdm.contrib.logging import logging_redirect_tqdm

        with logging_redirect_tqdm():
            if options.engine is None and is_film(options.input):
                return run_film(options, world)
            report = run(options, world) if options.engine is None else run_on_ray(options)
    except ImportError as error:
        hint = "pip install 'vimzoo[restore]'"
        raise UsageError(str(error) if hint in str(error) else f"{error}; {hint}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt as stop:
        if world.main:
            reached: Report | None = getattr(stop, "report", None)
            done = "" if reached is None else f": {counts(reached)}"
            how = "without --existing overwrite " if options.existing == "overwrite" else ""
            print(f"interrupted{done}; {how}the same command continues", file=sys.stderr)
        return Exit.INTERRUPTED
    if not world.main:
        return 0
    print(counts(report))
    for job, reason in report.failed:
        print(f"failed: {job.source}: {reason}", file=sys.stderr)
    return Exit.FAILED if report.failed else Exit.OK


def counts(report: Report) -> str:
    """What became of the files of a run, in words."""
    said = [f"{len(report.restored)} restored"]
    if report.skipped:
        said.append(f"{len(report.skipped)} skipped, as the results exist (--existing overwrite)")
    if report.failed:
        said.append(f"{len(report.failed)} failed")
    if report.left:
        said.append(f"{len(report.left)} left")
    return ", ".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return shared_command(parser().parse_args, arguments, command, "vimzoo.restore")


if __name__ == "__main__":
    run_command(main, tidies=True)
