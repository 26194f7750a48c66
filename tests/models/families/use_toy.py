"""Every part of the house meets the family in the folder toy; run by test_toy_family.py in a process of its own."""

import json
import sys
from pathlib import Path

import timm
import torch

import vimzoo
import vimzoo.models
from tools.cards import documents
from tools.cards.results import Results
from vimzoo import convert, export
from vimzoo.compat.official import official_state_dict
from vimzoo.engine.configuration.composing import compose_settings
from vimzoo.errors import similar
from vimzoo.models import registry


def converter(folder: Path) -> None:
    """From the authors' file to a folder that timm loads, with a card."""
    model = timm.create_model("toy_tiny").eval()
    names = official_state_dict(model)
    assert "trunk.weight" in names and "stem.weight" not in names
    torch.save({"state_dict": names}, folder / "theirs.pth")
    command = [str(folder / "theirs.pth"), "--model", "toy_tiny", "--output", str(folder / "ours")]
    assert convert.main(command) == 0
    loaded = timm.create_model(f"local-dir:{folder / 'ours'}", pretrained=True).eval()
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(image), model(image))
    card = (folder / "ours" / "README.md").read_text()
    assert "`toy_tiny.in2px`" in card and "top-1 50.0 %" in card and "0bsd" in card.lower()
    assert json.loads((folder / "ours" / "config.json").read_text())["architecture"] == "toy_tiny"


def exporter(folder: Path) -> None:
    """A file that gives the model's outputs, which the command checks."""
    words = ["toy_tiny", "--random", "--format", "pt2", "--output", str(folder / "toy.pt2")]
    assert export.main(words) == 0 and (folder / "toy.pt2").is_file()


def card(folder: Path) -> None:
    """Its section of MODEL_CARDS.md and its line in README.md."""
    for name in [name for name in registry.FAMILIES if name != "Toy"]:
        del registry.FAMILIES[name]  # counting them takes half a minute
    results = Results(folder / "results")
    text = documents.model_cards(results)
    assert "\n## Toy\n" in text and "\n### toy_tiny\n" in text and "Published: top-1 50.0 %" in text
    assert f"{registry.known_facts()['toy_tiny'].params:,} parameters" in text
    assert "| `toy_tiny` | " in documents.readme_sections(results)["models"]


def configuration(folder: Path) -> None:
    """Settings under its name."""
    settings = compose_settings(["model=toy_tiny", "model.drop_rate=0.1"])["model"]
    assert settings == {
        "model_name": "toy_tiny",
        "pretrained": False,
        "num_classes": None,
        "drop_rate": 0.1,
        "drop_path_rate": 0.0,
    }


def names(folder: Path) -> None:
    """What other commands say about it."""
    assert (
        "toy_tiny" in similar("toy_tyni", registry.known_facts())
        and registry.family_of("toy_tiny.in2px").name == "Toy"
    )
    assert registry.family_of(timm.create_model("toy_tiny")).name == "Toy"
    try:
        vimzoo.load_restoration(folder / "theirs.pth")
    except vimzoo.CheckpointError as error:
        assert "it looks like Toy, a classifier" in str(error)
    else:
        raise AssertionError("load_restoration has taken a classifier")


if __name__ == "__main__":
    vimzoo.models.__path__.append(str(Path(__file__).parent))
    registry.discover()
    for check in (converter, exporter, configuration, names, card):
        check(Path(sys.argv[1]))
