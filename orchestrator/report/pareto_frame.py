"""The Pareto fronts of a sweep as rows of one table, for programs."""

from typing import Any

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.front import front_of
from orchestrator.record.record import Record
from orchestrator.report.results import PARAM_PREFIX


def pareto_rows(plan: SweepPlan, record: Record) -> list[dict[str, Any]]:
    """A row for each trial on the front of its study; ValueError in a sweep of one objective."""
    if plan.also is None:
        raise ValueError(
            f"sweep {plan.name} has one objective; one with two is planned with "
            "also={'minimize': 'trained_parameters'}"
        )
    cost, rows = plan.also.cost, []
    for study in plan.studies:
        front = front_of(record.trials(study.name), plan.task(study.task), cost)
        space = plan.parsed_spaces[study.space]
        for point in front.members:
            as_good = front.as_good(point)
            searched = space.searched(point.trial.config)
            rows.append(
                {
                    "study": study.name,
                    "task": study.task,
                    "space": study.space,
                    "number": point.trial.number,
                    "val_accuracy": point.score,
                    "val_standard_error": point.error,
                    cost.name: point.cost,
                    "as_good_for_less": as_good and as_good.trial.number,
                    **{f"{PARAM_PREFIX}{name}": value for name, value in searched.items()},
                }
            )
    return rows
