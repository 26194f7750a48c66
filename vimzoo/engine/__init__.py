"""A short training loop over timm's parts; it sees models only through ``timm.create_model``."""

from .launch import launch
from .loop import State, evaluate, fit
from .tasks import TASKS, Scores, Task

__all__ = ["TASKS", "Scores", "State", "Task", "evaluate", "fit", "launch"]
