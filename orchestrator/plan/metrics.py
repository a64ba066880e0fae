"""Which metric each task is measured by, as a command says it: NAME for all, or TASK=NAME."""

from collections.abc import Sequence

from orchestrator.support.did_you_mean import unknown
from orchestrator.training.objective import DEFAULT_METRIC, METRICS


def metrics_by_task(asked: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """The metric of every task. ValueError for a task or a metric that is none, or is named twice.

    What is said of a task alone goes before what is said of all.
    """
    for_all: str | None = None
    of_one: dict[str, str] = {}
    for entry in asked:
        task, equals, metric = entry.rpartition("=")
        if metric not in METRICS:
            raise ValueError(f"--metric {entry}: {unknown('metric', metric, METRICS)}")
        if equals and task not in tasks:
            raise ValueError(f"--metric {entry}: {unknown('task', task, tasks)}")
        if (task in of_one) if equals else (for_all is not None):
            whose = f"of {task}" if equals else "of all tasks"
            raise ValueError(f"--metric {entry}: the metric {whose} was named before")
        if equals:
            of_one[task] = metric
        else:
            for_all = metric
    return {task: of_one.get(task, for_all or DEFAULT_METRIC) for task in tasks}
