"""A short training loop over timm's parts; it sees models only through ``timm.create_model``."""

from .launch import launch
from .loop import Evaluation, State, evaluate, fit

__all__ = ["Evaluation", "State", "evaluate", "fit", "launch"]
