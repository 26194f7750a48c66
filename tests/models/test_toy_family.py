"""A family is a folder: nothing else is edited for its card, converter, export, configuration and names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from vimzoo.errors import similar
from vimzoo.models import registry
from vimzoo.models.facts import ModelFacts
from vimzoo.models.family import Family

FAMILIES = Path(__file__).parent / "families"
ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_is_all_that_a_family_needs(tmp_path: Path) -> None:
    """In a process of its own, because timm keeps what is registered."""
    command = [sys.executable, str(FAMILIES / "use_toy.py"), str(tmp_path)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", registry.FAMILIES.values(), ids=lambda family: family.name)
def test_records_fit_their_models(family: Family) -> None:
    """Sizes on the record are those of the model; both spellings of its tensors are recognised."""
    name = next(name for name in family.facts if name.startswith("test_"))
    model, facts = timm.create_model(name), family.facts[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.params
    ours = model.state_dict()
    theirs = {slot.official: slot.read(ours[slot.ours]) for slot in family.dialect.slots(model)}
    assert registry.family_of(model) is registry.family_of(name) is family
    for state in (ours, theirs):
        finders = [other for other in registry.FAMILIES.values() if other.detect(state) is not None]
        assert finders == [family] and family.detect(state) is type(model)


def test_a_name_belongs_to_one_family() -> None:
    facts = {"test_vim": ModelFacts("test_vim")}
    other = Family("Other", facts, registry.FAMILIES["Vim"].dialect, lambda state: None)
    with pytest.raises(ValueError, match="Other: the name test_vim is taken by a model of Vim"):
        registry.register(other)
    assert "Other" not in registry.FAMILIES


def test_similar_names() -> None:
    assert "vim_tiny_patch16_224" in similar("vim_tny_patch16_224", registry.known_facts())
    with pytest.raises(ValueError, match="mambair_dm: no such restoration model; similar names: mambair_dn"):
        registry.find_facts("mambair_dm", "restoration")
    with pytest.raises(
        ValueError, match=r"mambair_dn\.sigma99: .*expected mambair_dn\.sigma15, mambair_dn\.sigma25"
    ):
        registry.find_facts("mambair_dn.sigma99")
    assert registry.find_facts("mambair_dn.sigma50")[1] == "sigma50"
