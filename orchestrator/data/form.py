"""A form in which people keep labelled images, known by looking at what a path is.

To add one: write its file, with a `Form`, and name it in `FORMS` of `forms.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.split import SplitRule
from orchestrator.data.task import Task


@dataclass(frozen=True, kw_only=True)
class Form:
    name: str
    """What tasks in it have as their `layout`."""
    is_task: Callable[[Path], bool]
    """Whether this path, a file or a folder, is one task in this form; quick, and never raises
    but OSError."""
    read: Callable[[Path, Path | None, SplitRule], Task]
    """The task at a path, with the folder of its images if that was named; what is wrong with it
    is in the task's `problems`. DataError where it cannot be understood."""
    task_name: Callable[[Path], str]
    """What the task at a path is called."""
