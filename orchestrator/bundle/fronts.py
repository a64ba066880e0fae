"""The Pareto front of every study as a file: configurations, without weights but those of the best.

While a study runs, it keeps the tuned weights of its best trial alone. Another point is trained
again by a search space of its own that holds the point's values `fixed`.
"""

from pathlib import Path
from typing import Any

from orchestrator.plan.costs import Cost
from orchestrator.plan.folders import BY_METHOD, FRONTS
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.record.front import front_of
from orchestrator.record.record import Record
from orchestrator.support.regular_file import refuse_link_below
from orchestrator.support.whole_file import write_whole
from orchestrator.support.yaml_io import dump_yaml


def write_fronts(plan: SweepPlan, record: Record, folder: Path) -> list[Path]:
    """Write `fronts/<study>.yaml` of every study that has one; the files, none of one objective."""
    fronts, written = folder / FRONTS, []
    refuse_link_below(folder, fronts)
    for name, text in front_texts(plan, record).items():
        written.append(fronts / f"{name}.yaml")
        write_whole(written[-1], text.encode())
    return written


def front_texts(plan: SweepPlan, record: Record) -> dict[str, str]:
    """What the file of each study says, the cheapest point first."""
    if plan.also is None:
        return {}
    return {
        study.name: dump_yaml(document)
        for study in plan.studies
        if (document := _document(plan, record, study, plan.also.cost)) is not None
    }


def _document(
    plan: SweepPlan, record: Record, study: StudyPlan, cost: Cost
) -> dict[str, Any] | None:
    task, best = plan.task(study.task), record.best(study.name)
    if best is None:
        return None
    bundle = f"{BY_METHOD}/{study.space}/{study.task}.yaml"
    return {
        "study": study.name,
        "method": plan.parsed_spaces[study.space].method,
        "metric": task.metric,
        "minimize": cost.name,
        "points": [
            {
                "trial": point.trial.number,
                "val_accuracy": point.score,
                "val_standard_error": point.error,
                cost.name: point.cost,
                "seed": point.trial.seed,
                "bundle": bundle if point.trial.number == best.number else None,
                "config": dict(point.trial.config),
            }
            for point in front_of(record.trials(study.name), task, cost).members
        ],
    }
