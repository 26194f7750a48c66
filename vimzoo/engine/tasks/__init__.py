"""All tasks, by name: every module of this folder defines one `TASK`."""

from importlib import import_module
from pkgutil import iter_modules

from vimzoo.errors import UsageError

from ..record import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (import_module(f"{__name__}.{module.name}").TASK for module in iter_modules(__path__))
}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in TASKS:
        raise UsageError(f"task={name}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
