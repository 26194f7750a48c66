"""Draws explain_cam.png, explain_mixing.png and explain_field.png, of docs/explaining.md.

python train.py hydra.run.dir=RUN          the digits
python docs/figures/draw_explain.py RUN

The first two show the trained model of the run, the first as pytorch-grad-cam computes it. The third shows the run's
model and two that are not trained, on photographs that scikit-image brings along. Nothing is drawn at random but the
initial weights, whose seed is 0.
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from vimzoo.data.pairs.photos import photo_files
from vimzoo.engine.build import build_data
from vimzoo.engine.finished import best_model, run_settings
from vimzoo.explain import cam_arguments, receptive_field, token_mixing

HERE = Path(__file__).resolve().parent
UNTRAINED = ("vim_tiny_patch16_224", "vmamba_tiny_s1l8")
SIDE = 224
EXAMPLES = 6


def digits(data: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first test image of each of the first classes, ``(count, C, H, W)`` and their classes."""
    labels = [int(data.test[i][1]) for i in range(len(data.test))]
    chosen = [labels.index(label) for label in range(count)]
    return torch.stack([data.test[i][0] for i in chosen]), torch.arange(count)


def cam_figure(model: nn.Module, images: Tensor, labels: Tensor, path: Path) -> None:
    """Each digit beside the Grad-CAM of its class."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model, *cam_arguments(model)) as cam:
        heat = cam(images, [ClassifierOutputTarget(int(label)) for label in labels])
    figure = Figure(figsize=(1.5 * len(images), 3.2), layout="constrained")
    for i, image in enumerate(images):
        for row, shown in enumerate((image[0], heat[i])):
            axes = figure.add_subplot(2, len(images), row * len(images) + i + 1)
            axes.imshow(shown, cmap="gray" if row == 0 else "magma")
            axes.axis("off")
    figure.savefig(path, dpi=90)


def mixing_figure(model: Any, image: Tensor, path: Path) -> None:
    """A digit, the matrices of the first and the last block, and the tokens that the central one takes from."""
    grid, channels = model.patch_embed.grid_size, range(model.blocks[0].mixer.ssm.dim)
    found = token_mixing(model, image[None], channels=channels)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.add_subplot(2, 5, 1)
    axes.imshow(image[0], cmap="gray")
    axes.set_title("image", fontsize=9)
    axes.axis("off")
    for row, mixing in enumerate((found[0], found[-1])):
        size = mixing.matrices[0].abs().mean(1)
        for k, way in enumerate(("forward", "backward")):
            axes = figure.add_subplot(2, 5, 5 * row + 2 + k)
            axes.imshow(size[k].log10().clamp(min=-5), cmap="magma")
            axes.set_title(f"{mixing.layer.partition('.mixer')[0]}, {way}", fontsize=9)
            axes.set(xticks=[], yticks=[], xlabel="from token", ylabel="to token")
            axes = figure.add_subplot(2, 5, 5 * row + 4 + k)
            axes.imshow(size[k, size.shape[-1] // 2].reshape(grid).log10().clamp(min=-5), cmap="magma")
            axes.set_title(f"the centre, {way}", fontsize=9)
            axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=90)


def photograph(file: Path) -> Tensor:
    """A photograph, stretched to the models' size, ``(3, H, W)`` in 0..1."""
    return to_tensor(Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def field_figure(model: nn.Module, images: Tensor, path: Path) -> None:
    """Effective receptive fields: of the trained model, and of larger ones that are not trained."""
    fields = {"the digits' Vim, trained": receptive_field(model, images)}
    photographs = torch.stack([photograph(file) for file in photo_files("val") + photo_files("test")])
    for name in UNTRAINED:
        torch.manual_seed(0)
        fields[f"{name}, not trained"] = receptive_field(timm.create_model(name).eval(), photographs)
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for i, (title, field) in enumerate(fields.items()):
        axes = figure.add_subplot(1, len(fields), i + 1)
        shown = axes.imshow((field / field.max()).log10().clamp(min=-4), vmin=-4, vmax=0, cmap="magma")
        axes.set_title(title, fontsize=10)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=figure.axes, shrink=0.8, label="gradient, log10 of the largest")
    figure.savefig(path, dpi=90)


def draw(run: Path, folder: Path) -> None:
    """All three figures.

    Args:
        run: Folder of a finished run of ``train.py`` with its defaults.
        folder: Where to put them.
    """
    cfg = run_settings(run)
    data = build_data(cfg)
    model = best_model(run, cfg, data).eval()
    images, labels = digits(data, EXAMPLES)
    cam_figure(model, images, labels, folder / "explain_cam.png")
    mixing_figure(model, images[2], folder / "explain_mixing.png")
    field_figure(model, torch.stack([data.test[i][0] for i in range(64)]), folder / "explain_field.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of the digits")
    draw(parser.parse_args().run, HERE)
