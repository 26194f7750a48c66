"""Training: a short loop over timm's parts, its checkpoints, processes and reports."""

from .checkpoints.saver import Saver, Stopped
from .launch import launch
from .loop import evaluate, fit
from .state import State
from .task import Scores, Task
from .tasks import TASKS

__all__ = ["TASKS", "Saver", "Scores", "State", "Stopped", "Task", "evaluate", "fit", "launch"]
