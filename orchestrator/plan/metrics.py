"""Which metric each task is measured by, as a command or the suite's own file says it.

A command says NAME for all tasks or TASK=NAME for one. A suite may have a file `suite.yaml` beside
its tasks, with a line for each task that is not measured by the default:

    metrics:
      caltech101: mean_per_class
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import read_as
from orchestrator.support.yaml_io import read_yaml
from orchestrator.training.objective import DEFAULT_METRIC, METRICS, MetricName

SUITE_FILE = "suite.yaml"


@dataclass(frozen=True, kw_only=True)
class _SuiteFile:
    metrics: Mapping[str, MetricName] = field(default_factory=dict)


def metrics_of_suite(root: Path | None, tasks: Sequence[str], *, all_tasks: bool) -> dict[str, str]:
    """What the suite's own file says, by task; empty without a file.

    ValueError for a metric that is none and, where `tasks` are all of the suite, for a task that is
    none of them.
    """
    path = None if root is None else root / SUITE_FILE
    if path is None or not path.is_file():
        return {}
    metrics = dict(read_as(_SuiteFile, read_yaml(path), source=str(path)).metrics)
    for task in metrics:
        if all_tasks and task not in tasks:
            raise ValueError(f"{path}: metrics: {unknown('task', task, tasks)}")
    return metrics


def refuse_unknown_metrics(asked: Sequence[str]) -> None:
    """ValueError for a metric that is none; whose it is meant to be is not looked at."""
    for entry in asked:
        metric = entry.rpartition("=")[2]
        if metric not in METRICS:
            raise ValueError(f"--metric {entry}: {unknown('metric', metric, METRICS)}")


def metrics_by_task(
    asked: Sequence[str], tasks: Sequence[str], *, of_suite: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The metric of every task. ValueError for a task or a metric that is none, or is named twice.

    What is asked of a task alone goes before what is asked of all, and both go before what the
    suite says of itself (`of_suite`).
    """
    refuse_unknown_metrics(asked)
    for_all: str | None = None
    of_one: dict[str, str] = {}
    for entry in asked:
        task, equals, metric = entry.rpartition("=")
        if equals and task not in tasks:
            raise ValueError(f"--metric {entry}: {unknown('task', task, tasks)}")
        if (task in of_one) if equals else (for_all is not None):
            whose = f"of {task}" if equals else "of all tasks"
            raise ValueError(f"--metric {entry}: the metric {whose} was named before")
        if equals:
            of_one[task] = metric
        else:
            for_all = metric
    by_default = dict.fromkeys(tasks, for_all) if for_all else (of_suite or {})
    return {task: of_one.get(task) or by_default.get(task, DEFAULT_METRIC) for task in tasks}
