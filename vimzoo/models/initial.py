"""Initialisation that all families share."""

from torch import nn

__all__ = ["reset_layers"]


def reset_layers(model: nn.Module) -> None:
    """Call ``reset_parameters`` of every module that has it, as after ``to_empty``."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
