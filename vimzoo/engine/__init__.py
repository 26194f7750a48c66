"""A short training loop over timm's parts; it sees models only through ``timm.create_model``."""

from .launch import launch
from .loop import evaluate, fit
from .saver import Saver, Stopped
from .state import State
from .tasks import TASKS, Scores, Task

__all__ = ["TASKS", "Saver", "Scores", "State", "Stopped", "Task", "evaluate", "fit", "launch"]
