"""Loads state dicts of every form that the MambaIR authors' constructors once built."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vimzoo import layers
from vimzoo.layers.mambair import CAB, cab_form
from vimzoo.models.mambair.names import MAMBAIR
from vimzoo.models.mambair.unet import MambaIRUNet

from .official import accept_official_names


def accept_any_form(module: nn.Module) -> None:
    """Make ``module.load_state_dict`` take the authors' names, in whichever form of the network a state dict is."""
    module.register_load_state_dict_pre_hook(_rebuild)  # before the names are translated
    accept_official_names(module)


def _rebuild(owner: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Give every part of ``owner`` the form that the tensors for it have."""
    for slot in MAMBAIR.slots(owner):
        found = state.get(prefix + slot.official, state.get(prefix + slot.ours))
        if not isinstance(found, Tensor) or not slot.ours.endswith(("convs.0.weight", "ssm.A_log")):
            continue
        path = slot.ours.rpartition("convs." if "convs." in slot.ours else ".")[0].rstrip(".")
        part = owner.get_submodule(path)
        if isinstance(part, CAB):
            form = cab_form(found.shape, part.dim, part.compress)
            if form is not None and form != part.form:
                part.change_form(form)
        if isinstance(part, layers.SelectiveSSM) and isinstance(owner, MambaIRUNet) and found.dim() > 1:
            owner.get_submodule(path.rpartition(".")[0]).ssm = _with_states(part, found.shape[-1])


def _with_states(ssm: layers.SelectiveSSM, d_state: int) -> layers.SelectiveSSM:
    """The scan itself, or a new one if its number of states is another."""
    if d_state == ssm.d_state:
        return ssm
    like = ssm.A_log
    return layers.SelectiveSSM(
        ssm.dim, d_state, ssm.dt_rank, ssm.directions, device=like.device, dtype=like.dtype
    )
