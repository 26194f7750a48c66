"""Lets a module load the Vim authors' parameter names, and writes state and gradients under them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.models.vim_names import is_official, slots, to_native

__all__ = ["accept_official_names", "official_gradients", "official_state_dict"]


def official_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state of a Vim model, block or mixer under the authors' names, as slices of our tensors.

    Rotary tables, which the authors store and we compute, are included.
    """
    state = module.state_dict()
    named = {slot.official: slot.read(state[slot.ours]) for slot in slots(module)}
    rope = getattr(module, "rope", None)
    if rope is not None:
        rows, columns = module.patch_embed.grid_size  # type: ignore[union-attr, misc]
        tables = rope.tables(rows, columns, torch.device("cpu"))
        named.update(zip(("rope.freqs_cos", "rope.freqs_sin"), tables, strict=True))
    return named


def official_gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients under the authors' names; parameters without one are left out."""
    parameters = dict(module.named_parameters())
    gradients: dict[str, Tensor] = {}
    for slot in slots(module):
        gradient = parameters[slot.ours].grad if slot.ours in parameters else None
        if gradient is not None:
            gradients[slot.official] = slot.read(gradient)
    return gradients


def accept_official_names(module: nn.Module) -> None:
    """Make ``module.load_state_dict`` take the authors' keys, and report what is missing or unexpected in
    them.

    Our own keys are taken as before. Works inside larger models too, whatever the prefix.
    """
    reported: dict[str, list[str]] = {}  # our name, with prefix -> the authors' names that are missing

    def before(
        owner: nn.Module, state: dict[str, Any], prefix: str, meta: Any, strict: bool, missing: Any,
        unexpected: Any, errors: list[str],
    ) -> None:  # fmt: skip
        reported.clear()
        own = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if not is_official(own):
            return
        usable = _usable(owner, own, prefix, reported, errors)
        for name in own:
            del state[prefix + name]
        state.update({prefix + name: value for name, value in to_native(usable, owner).items()})

    def after(owner: nn.Module, incompatible: Any) -> None:
        names = incompatible.missing_keys
        names[:] = [official for name in names for official in reported.get(name, [name])]

    module.register_load_state_dict_pre_hook(before)
    module.register_load_state_dict_post_hook(after)


def _usable(
    owner: nn.Module, own: Mapping[str, Tensor], prefix: str, missing: dict[str, list[str]], errors: list[str]
) -> dict[str, Tensor]:
    """``own`` without the tensors that cannot be loaded, each of which is recorded."""
    groups: dict[str, list] = {}
    for slot in slots(owner):
        groups.setdefault(slot.ours, []).append(slot)
    usable = dict(own)
    for ours, group in groups.items():
        absent = [slot.official for slot in group if slot.official not in own]
        wrong = [s for s in group if s.official in own and tuple(own[s.official].shape) != s.shape]
        errors += [
            f"size mismatch for {prefix}{s.official}: copying a param with shape {own[s.official].shape}"
            f" from checkpoint, the shape in current model is {torch.Size(s.shape)}."
            for s in wrong
        ]
        if absent or wrong:
            missing[prefix + ours] = [prefix + name for name in absent]
            for slot in group:
                usable.pop(slot.official, None)
    return usable
