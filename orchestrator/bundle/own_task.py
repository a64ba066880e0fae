"""The task that a bundle was made for, where its images are still to be found."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.data.suites import load_suite
from orchestrator.data.task import Task
from orchestrator.plan.places import moved_suite, under_planned_names

if TYPE_CHECKING:
    from orchestrator.bundle.bundle import Bundle


def task_of(bundle: "Bundle", data: Path | None) -> Task:
    """As its suite reads it now: in the place it came from, or in the suite at `data`.

    DataError if it is not there. Nothing is said about whether its images are the same.
    """
    name, data_root = bundle.suite, bundle.data_root
    if data is not None:
        name, data_root = moved_suite(name, data)
    suite = under_planned_names(
        lambda tasks: load_suite(
            name,
            data_root=Path(data_root) if data_root else None,
            tasks=tasks,
            rule=bundle.split_rule,
        ),
        [bundle.task],
    )
    (task,) = suite.tasks
    return task
