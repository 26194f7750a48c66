"""Loads state dicts under the authors' parameter names, and returns states and gradients under them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.models.registry import family_of
from vimzoo.models.weights.dialect import Dialect, Slot

__all__ = ["accept_official_names", "official_gradients", "official_state_dict"]


class Named(nn.Module):
    """A module that belongs to no family, with the dialect that knows the authors' names of its parameters."""

    dialect: Dialect


def dialect_of(module: nn.Module) -> Dialect:
    """The dialect of a module's family.

    Raises:
        TypeError: no part of it belongs to a family.
    """
    family = None if isinstance(module, Named) else family_of(module)
    if family is not None:
        return family.dialect
    for part in module.modules():  # those that belong to no family say it themselves
        if isinstance(part, Named):
            return part.dialect
    raise TypeError(f"{type(module).__name__} has no official names")


def _slots(module: nn.Module, spelling: str | None) -> list[Slot]:
    dialect = dialect_of(module)
    respell = dialect.spellings.get(spelling or getattr(module, "official_spelling", None) or "")
    slots = dialect.slots(module)
    return slots if respell is None else [respell(slot) for slot in slots]


def official_state_dict(module: nn.Module, spelling: str | None = None) -> dict[str, Tensor]:
    """The state of a model, block or mixer under the authors' names, as parts of our tensors.

    Tensors that the authors store and we compute, such as Vim's rotary tables, are included.

    Args:
        module: A module of ours.
        spelling: ``"single_file"`` for the names of the VMamba authors' single file. By default those of the last
            state dict that the module has loaded, if it is known.
    """
    state = module.state_dict()
    named = {slot.official: slot.read(state[slot.ours]) for slot in _slots(module, spelling)}
    named |= dialect_of(module).constants(module)
    rope = getattr(module, "rope", None)
    if rope is not None:
        rows, columns = module.patch_embed.grid_size  # type: ignore[union-attr, misc]
        tables = rope.tables(rows, columns, torch.device("cpu"))
        named.update(zip(("rope.freqs_cos", "rope.freqs_sin"), tables, strict=True))
    return named


def official_gradients(module: nn.Module, spelling: str | None = None) -> dict[str, Tensor]:
    """Gradients under the authors' names; parameters without one are left out.

    Args:
        module: A module of ours.
        spelling: As `official_state_dict` takes it.
    """
    parameters = dict(module.named_parameters())
    gradients: dict[str, Tensor] = {}
    for slot in _slots(module, spelling):
        gradient = parameters[slot.ours].grad if slot.ours in parameters else None
        if gradient is not None:
            gradients[slot.official] = slot.read(gradient)
    return gradients


def accept_official_names(module: nn.Module) -> None:
    """Make ``module.load_state_dict`` take the authors' keys, and report what is missing or unexpected in
    them.

    Our own keys are taken as before. Works inside larger models too, whatever the prefix.
    """
    dialect = dialect_of(module)
    reported: dict[str, list[str]] = {}  # our name, with prefix -> the authors' names that are missing

    def before(
        owner: nn.Module, state: dict[str, Any], prefix: str, meta: Any, strict: bool, missing: Any,
        unexpected: Any, errors: list[str],
    ) -> None:  # fmt: skip
        reported.clear()
        own = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if not dialect.is_official(own):
            return
        owner.official_spelling = dialect.spelling_of(own)  # type: ignore[assignment]
        usable = _usable(dialect, owner, dialect.spell(own), prefix, reported, errors)
        for name in own:
            del state[prefix + name]
        state.update({prefix + name: value for name, value in dialect.to_native(usable, owner).items()})

    def after(owner: nn.Module, incompatible: Any) -> None:
        names = incompatible.missing_keys
        names[:] = [official for name in names for official in reported.get(name, [name])]

    module.register_load_state_dict_pre_hook(before)
    module.register_load_state_dict_post_hook(after)


def _usable(
    dialect: Dialect,
    owner: nn.Module,
    own: Mapping[str, Tensor],
    prefix: str,
    missing: dict[str, list[str]],
    errors: list[str],
) -> dict[str, Tensor]:
    """``own`` without the tensors that cannot be loaded, each of which is recorded."""
    usable = dict(own)
    shown = {slot.ours: slot.official for slot in _slots(owner, None)}
    for ours, group in dialect.groups(owner).items():
        absent = [slot.official for slot in group if slot.official not in own]
        wrong = [s for s in group if s.official in own and not s.fits(own[s.official])]
        errors += [
            f"size mismatch for {prefix}{s.official}: copying a param with shape {own[s.official].shape}"
            f" from checkpoint, the shape in current model is {torch.Size(s.shape)}."
            for s in wrong
        ]
        if absent or wrong:
            alone = len(group) == 1 and absent
            missing[prefix + ours] = [prefix + name for name in ([shown[ours]] if alone else absent)]
            for slot in group:
                usable.pop(slot.official, None)
    return usable
