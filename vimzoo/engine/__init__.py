"""Training: a short loop over timm's parts, its checkpoints, processes and reports."""

from .checkpoints.saver import Saver, Stopped
from .loop import evaluate, fit
from .record import Scores, Task
from .running import launch
from .state import State
from .tasks import TASKS

__all__ = ["TASKS", "Saver", "Scores", "State", "Stopped", "Task", "evaluate", "fit", "launch"]
