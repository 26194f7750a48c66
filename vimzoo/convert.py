"""Convert a checkpoint to a folder in the Hub's layout: ``python -m vimzoo.convert FILE --model NAME --output DIR``.

The folder has ``model.safetensors``, ``config.json`` and a card, ``README.md``; ``timm.create_model("local-dir:DIR",
pretrained=True)`` loads it, and so does ``hf-hub:`` once it is uploaded. It is loaded and compared before it is moved
into place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from vimzoo import __version__

from .commands import Parser, command, run_command
from .errors import Failure, UsageError
from .files import unfinished
from .models import CheckpointError, load_checkpoint
from .models._timm import generate_readme
from .models.inferred import restoration_options
from .models.opening import open_model
from .models.registry import find_facts
from .models.restoration_base import RestorationModel
from .models.weights.reader import read_tensors
from .models.weights.saving import save_for_hf


def full_name(name: str) -> str:
    """A registered name with a tag of its weights: the one given, or the first.

    Raises:
        UsageError: there is no such model or tag; the message lists similar names.
    """
    facts, tag = find_facts(name, argument="--model ")
    return facts.tagged(tag)


def build(
    file: Path, name: str, *, use_ema: bool | None = None, num_classes: int | None = None
) -> tuple[nn.Module, Mapping[str, Any]]:
    """Build the registered model with the file's weights, on the CPU in evaluation mode.

    If a restoration file is from another generation or size of network, that network is built, provided that its
    class, scale and channels are ``name``'s.

    Returns:
        The model, and the constructor arguments that differ from the registered model's.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    tensors = read_tensors(file, use_ema=use_ema)
    model = open_model(name, random=True, **options)
    if tensors.routing is not None and getattr(model, "routing", None) not in (None, tensors.routing):
        options["routing"] = tensors.routing
        model = open_model(name, random=True, **options)
    try:
        load_checkpoint(model, file, use_ema=use_ema)
        return model, options
    except CheckpointError:
        if not isinstance(model, RestorationModel):
            raise
    kind, options = restoration_options(tensors, str(file))
    found: Any = kind(**options)
    wanted, got = (f"{type(m).__name__} x{m.scale} of {m.in_chans} channels" for m in (model, found))
    if got != wanted:
        raise CheckpointError(f"{file}: holds a {got}; {name} is a {wanted}")
    model = timm.create_model(name, **options).eval()
    load_checkpoint(model, file, use_ema=use_ema)
    return model, options


def model_card(
    name: str, model: nn.Module, changed: Mapping[str, Any] | None = None, made: str = ""
) -> dict[str, Any]:
    """A card in the form of ``timm.models.push_to_hf_hub(model, ..., model_card=...)``.

    Args:
        name: Registered name with its tag.
        model: The model itself, for its size.
        changed: Arguments that differ from the registered model's; if there are any, published scores are left out.
        made: Where the weights come from.
    """
    facts, tag = find_facts(name)
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    classes = getattr(model, "num_classes", 0)
    hub = f"{cfg.hf_hub_filename} of https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
    details: dict[str, Any] = {
        "Task": f"images to {classes} classes" if classes else facts.purpose,
        "Parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "License": cfg.license,
        "Authors' code": cfg.origin_url,
        "Paper": cfg.paper_ids and str(cfg.paper_ids).replace("arXiv:", "https://arxiv.org/abs/"),
        "Authors' weights": hub,
    }  # fmt: skip
    if changed:
        said = ", ".join(f"{key}={value!r}" for key, value in changed.items())
        details["Not the registered network"] = f"`{said}`; scores published for {name} are not this one's"
    else:
        details |= facts.published(tag)
        details["Note"] = facts.note
    details["Made"] = made
    return {
        "license": cfg.license,
        "library_name": "vimzoo",
        "tags": [facts.hub_task, "timm", "vimzoo"],
        "description": f"`{name}` of vimzoo. Scores are its authors' figures for their weights; none was measured on "
        "these files.",
        "details": {key: value for key, value in details.items() if value},
        "usage": f'```python\nimport timm, vimzoo\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)'
        f".eval()  # or hf-hub:OWNER/{facts.name}\n```",
    }


def same(model: nn.Module, folder: Path) -> bool:
    """Whether timm loads a model with exactly these weights from ``folder``."""
    found = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    own = model.state_dict()
    return found.keys() == own.keys() and all(torch.equal(own[name], found[name]) for name in own)


def convert(
    file: str | os.PathLike[str],
    name: str,
    output: str | os.PathLike[str],
    *,
    use_ema: bool | None = None,
    num_classes: int | None = None,
) -> Path:
    """Write a checkpoint as a folder for timm and the Hub, atomically.

    Args:
        file: A checkpoint of the authors or of this package, as for `vimzoo.load_checkpoint`.
        name: Registered name; the tag (``mambair_dn.sigma25``) determines the contents of the card.
        output: The new folder.
        use_ema: Use the moving average of the weights, or the trained weights; None: see `read_checkpoint`.
        num_classes: Number of classes of the file, if it is not the registered one.

    Returns:
        The new folder.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
        UsageError: there is no such model, it has no classes, or ``output`` exists or cannot be created.
        Failure: the written folder loads with other weights; it is removed.
    """
    file, output, name = Path(file), Path(output), full_name(name)
    facts = find_facts(name)[0]
    if num_classes is not None and facts.task != "classification":
        raise UsageError(f"--num-classes {num_classes}: {name} has no classes")
    if output.exists():
        raise UsageError(f"--output {output}: exists; expected a new folder")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}")
    model, changed = build(file, name, use_ema=use_ema, num_classes=num_classes)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    which = {
        True: "the moving average of the weights in",
        False: "the trained weights in",
        None: "the weights in",
    }[use_ema]
    made = f"from {which} {file.name} (sha256 {digest}) by vimzoo {__version__} and timm {timm.__version__}"
    with unfinished(output.absolute(), "") as folder:
        save_for_hf(model, folder)
        card = model_card(name, model, changed, made)
        readme = generate_readme(card, name, task_name=facts.hub_task)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        if not same(model, folder):
            raise Failure(f"{file}: the folder written for {name} loads with other weights; it was removed")
    return output


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = Parser(prog="python -m vimzoo.convert", description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="checkpoint by torch.save or safetensors, with the authors' parameter names or ours",
    )
    parser.add_argument(
        "--model", metavar="NAME", required=True, help="registered name of the model, with or without a tag"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to create")
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction,
        help="use the checkpoint's moving average, or its trained weights (default: those that were evaluated)",
    )  # fmt: skip
    parser.add_argument(
        "--num-classes",
        metavar="N",
        type=int,
        help="number of classes, if the file was trained for other classes than the model",
    )
    options = parser.parse_args(arguments)
    folder = convert(
        options.file, options.model, options.output, use_ema=options.ema, num_classes=options.num_classes
    )
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    run_command(main)
