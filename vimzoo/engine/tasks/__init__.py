"""All tasks, by name: every module of this folder defines one `TASK`."""

from vimzoo.errors import UsageError
from vimzoo.records import records

from ..record import Task

TASKS: dict[str, Task] = {task.name: task for task in records(__name__, "TASK")}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in TASKS:
        raise UsageError(f"task={name}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
