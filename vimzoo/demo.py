"""A page to try the models: ``python -m vimzoo.demo`` opens it in the browser.

It has two tabs: classification, with the model's scan paths and the regions that its prediction depends on; and
restoration, before and after. Everything runs on this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from .commands import Parser, command, report, run_command
from .data.images.decode import DAMAGED, MODES, read_image
from .errors import UsageError, first_line
from .exporting.running import RUNNERS, RUNTIME_HELP, ClassifierFile, RestorationFile, exported
from .models.opening import find_model, open_model
from .models.weights.class_names import of_model
from .ops import BIDIRECTIONAL, ScanPath
from .pictures import exif
from .pictures.eight_bits import any_as_8_bits
from .pictures.orientation import upright

INSTALL = "pip install 'vimzoo[demo]'"


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parsed = Parser(prog="python -m vimzoo.demo", description=(__doc__ or "").splitlines()[0])
    parsed.add_argument("--model", default="vim_tiny_patch16_224", help="classifier (default: %(default)s)")
    parsed.add_argument(
        "--checkpoint",
        default="",
        metavar="FILE",
        help="weights file of the classifier (default: the published weights)",
    )
    parsed.add_argument(
        "--restore-model", default="mambair_mini_x2", help="restoration model (default: %(default)s)"
    )
    parsed.add_argument(
        "--restore-checkpoint", default="", metavar="FILE", help="weights file of the restoration model"
    )
    parsed.add_argument(
        "--port", type=int, default=7860, help="local port of the page, 1 to 65535 (default: %(default)s)"
    )
    parsed.add_argument(
        "--runtime", choices=RUNNERS, help=RUNTIME_HELP.replace("--model", "a model's option")
    )
    parsed.add_argument("--no-browser", action="store_true", help="serve the page without opening a browser")
    return parsed


try:
    from .restoration import PictureError, Restorer, read_picture, restoration_model
except ImportError as missing:
    if __name__ != "__main__":
        raise
    parser().parse_args()  # --help works without the packages
    sys.exit(report(ImportError(f"the page needs {missing.name}; {INSTALL}")))

MOST_PIXELS = 50_000_000
"""Larger pictures are rejected, because the user waits for the result."""
FILE_LABEL = "File of weights (or empty: the published ones)"
GRID = 8
"""Tokens per side of the grid on which scan paths are drawn; coarser than any model's."""


class DemoError(Exception):
    """An error that the user can fix; the message says how."""


@lru_cache(maxsize=4)
def classifier(name: str, checkpoint: str = "", runtime: str | None = None) -> nn.Module:
    """A classifier in evaluation mode, with the weights of a file or else the published ones, or an exported file.

    Raises:
        DemoError: there is no such classifier, or its weights are not available.
    """
    try:
        if file := exported(name, runtime_for(name, runtime), checkpoint=checkpoint or None):
            if isinstance(file, ClassifierFile):
                return file
            raise UsageError(f"{name}: a restoration model; expected a classifier")
        return open_model(name, checkpoint or None, argument="Model", hint="name a file of weights instead")
    except UsageError as error:
        raise DemoError(first_line(error)) from error


def runtime_for(name: str, runtime: str | None) -> str | None:
    """The page's runtime, for a model that is a file: the other tab may have one that is not."""
    return runtime if Path(name).is_file() else None


@lru_cache(maxsize=4)
def restorer(name: str, checkpoint: str = "", runtime: str | None = None) -> Restorer:
    """A restorer, by the name of its model, from an exported file, or from weights that its model is inferred from.

    Raises:
        DemoError: neither is given, or the weights are not available.
    """
    if not name and not checkpoint:
        raise DemoError("Name a model, or a file of weights.")
    try:
        if file := exported(name, runtime_for(name, runtime), checkpoint=checkpoint or None):
            if isinstance(file, RestorationFile):
                return Restorer(file)
            raise UsageError(f"{name}: a classifier; expected a restoration model")
        return Restorer(restoration_model(None if checkpoint else name, checkpoint or None))
    except (ValueError, OSError) as error:
        raise DemoError(first_line(error)) from error


def read_pixels(path: str | None) -> np.ndarray:
    """The pixels of an uploaded file, ``(H, W, channels)``, upright according to its EXIF data.

    Raises:
        DemoError: there is no file, or it cannot be read as a picture.
    """
    if path is None:
        raise DemoError("Choose a picture first.")
    try:
        picture = read_picture(Path(path), max_pixels=MOST_PIXELS)
    except (PictureError, OSError) as error:
        raise DemoError(f"This file cannot be read as a picture: {first_line(error)}") from error
    if picture.bands is not None:
        raise DemoError(f"This picture has {picture.bands.shape[2]} bands besides grey or colour.")
    return upright(picture.pixels, exif.orientation(picture.exif))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Any picture as ``(H, W, 3)`` uint8, without alpha."""
    eight = any_as_8_bits(pixels)
    colour = eight[..., :1] if eight.shape[2] < 3 else eight[..., :3]
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))


def scan_paths_of(model: nn.Module) -> Sequence[ScanPath]:
    """The scan paths of a model's first mixer; forward and backward, as in Vim, if it defines none."""
    found: Any = (module.paths for module in model.modules() if hasattr(module, "paths"))
    return next(found, BIDIRECTIONAL)


def classify(
    path: str | None, name: str, checkpoint: str = "", runtime: str | None = None
) -> tuple[dict[str, float], Any, Any]:
    """Probabilities of the top five classes, and the picture with the attribution and with the paths drawn over it.

    An exported file has neither gradients nor paths to show; None stands for these pictures then.

    Raises:
        DemoError: the picture or the model is not available.
    """
    from .plots import attribution

    if path is None:
        raise DemoError("Choose a picture first.")
    model = classifier(name.strip(), checkpoint.strip(), runtime)
    config = resolve_model_data_config(model)
    try:
        picture = read_image(path, MODES.get(config["input_size"][0], "RGB"), max_pixels=MOST_PIXELS)
    except DAMAGED as error:
        raise DemoError(f"This file cannot be read as a picture: {first_line(error)}") from error
    image: Tensor = create_transform(**config)(picture).unsqueeze(0)  # type: ignore[operator,union-attr]
    with torch.no_grad():
        probabilities = model(image)[0].softmax(-1)
    best = probabilities.topk(min(5, len(probabilities)))
    names = of_model(model)
    scores = {names[index]: p for p, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)}
    if isinstance(model, ClassifierFile):
        return scores, None, None
    heat = attribution(model, image, best.indices[:1])[0]
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    seen = (image[0] * std + mean).clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    return scores, draw_heat(seen, heat.numpy()), draw_paths(seen, scan_paths_of(model))


def _figure_image(figure: Any) -> Any:
    """A figure as an array ``(H, W, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_heat(seen: np.ndarray, heat: np.ndarray) -> Any:
    """The model's input ``(H, W, 3)`` in 0..1 with the attribution ``(H, W)`` over it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(seen)
    axes.imshow(heat, cmap="inferno", alpha=0.55)
    axes.axis("off")
    return _figure_image(figure)


def draw_paths(seen: np.ndarray, paths: Sequence[ScanPath]) -> Any:
    """The distinct paths on a coarse grid over the model's input."""
    from matplotlib.figure import Figure

    from .plots import draw_path

    different = list(dict.fromkeys(paths))
    figure = Figure(figsize=(3 * min(4, len(different)), 3 * -(-len(different) // 4)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(-(-len(different) // 4), min(4, len(different)))).ravel()
    for axes, path in zip(panels, different, strict=False):
        draw_path(axes, path, GRID, GRID)
        axes.imshow(seen, extent=(-0.5, GRID - 0.5, GRID - 0.5, -0.5), alpha=0.45, zorder=0)
    return _figure_image(figure)


def restore(
    path: str | None,
    name: str,
    checkpoint: str = "",
    progress: Callable[[float], None] | None = None,
    runtime: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A picture before, enlarged to the size of the result by repeating pixels, and after; both ``(H, W, 3)`` uint8.

    Raises:
        DemoError: the picture or the model is not available, or there is too little memory.
    """
    from PIL import Image

    try:
        pixels = as_rgb(read_pixels(path))
    except PictureError as error:
        raise DemoError(f"This file cannot be shown: {first_line(error)}") from error
    run = restorer(name.strip(), checkpoint.strip(), runtime)
    try:
        after = run(pixels, progress)
    except (RuntimeError, MemoryError, FloatingPointError) as error:
        raise DemoError(first_line(error)) from error
    size = (pixels.shape[1] * run.scale, pixels.shape[0] * run.scale)
    before = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
    return before, after


def page(options: argparse.Namespace) -> Any:
    """The page as a ``gradio.Blocks``.

    Raises:
        ImportError: gradio is missing.
    """
    import gradio as gr

    def shown(function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with its errors shown on the page."""

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except DemoError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return call

    def restore_with_progress(path: str | None, name: str, checkpoint: str, bar: Any = gr.Progress()) -> Any:  # noqa: B008
        progress = partial(bar, desc="restoring")
        return shown(restore)(path, name, checkpoint, progress, options.runtime)

    def asked(what: str, model: str, checkpoint: str) -> tuple[list[Any], Any]:
        """The inputs that both tabs have, and the button below them."""
        with gr.Column():
            picture = gr.File(label="Picture", type="filepath", elem_id=f"{what.lower()}-file")
            name = gr.Textbox(model, label="Model")
            file = gr.Textbox(checkpoint, label=FILE_LABEL)
            button = gr.Button(what, variant="primary", elem_id=f"{what.lower()}-button")
        return [picture, name, file], button

    with gr.Blocks(title="vimzoo") as blocks:
        gr.Markdown("# vimzoo\nVision state-space models on this machine.")
        with gr.Tab("Classify"):
            with gr.Row():
                inputs, button = asked("Classify", options.model, options.checkpoint)
                scores = gr.Label(label="Classes", elem_id="classify-result")
            heat = gr.Image(label="Regions that drive the top prediction", elem_id="classify-heat")
            paths = gr.Image(
                label="How the model reads it (drawn on a coarse grid)", elem_id="classify-paths"
            )
            button.click(shown(partial(classify, runtime=options.runtime)), inputs, [scores, heat, paths])
        with gr.Tab("Restore"):
            with gr.Row():
                inputs, button = asked("Restore", options.restore_model, options.restore_checkpoint)
                slider = gr.ImageSlider(label="Before and after", elem_id="restore-result")
            button.click(restore_with_progress, inputs, slider)
    return blocks


def _check(model: str, name: str, checkpoint: str, file: str) -> None:
    """Reject a missing model or file before the page opens; weights are loaded when they are needed.

    Args:
        model, checkpoint: The options' names.
        name, file: Their values; an empty value is entered on the page.
    """
    if file and not Path(file).is_file():
        raise UsageError(f"{checkpoint} {file}: no such file")
    if name and not Path(name).is_file():
        find_model(name, model)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; serves until it is interrupted."""
    options = parser().parse_args(arguments)
    if not 1 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}: expected 1 to 65535")
    _check("--model", options.model, "--checkpoint", options.checkpoint)
    _check("--restore-model", options.restore_model, "--restore-checkpoint", options.restore_checkpoint)
    if options.runtime and not any(Path(name).is_file() for name in (options.model, options.restore_model)):
        raise UsageError(
            f"--runtime {options.runtime}: expected an exported file as --model or --restore-model"
        )
    try:
        blocks = page(options)
    except ImportError as error:
        raise UsageError(f"{error}; {INSTALL}") from error
    try:
        blocks.launch(server_port=options.port, inbrowser=not options.no_browser)
    except OSError as error:
        raise UsageError(f"--port {options.port}: {error}") from error
    return 0


if __name__ == "__main__":
    run_command(main)
