"""The experiment of a sweep: found by its tag, made with its note and its saved views."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.plan.plan import SweepPlan
from orchestrator.tracking.content import BEST_PREFIX, TOTALS, millis, sweep_id, sweep_note
from orchestrator.tracking.mlflow import private

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

logger = logging.getLogger(__name__)

SWEEP_TAG = "orchestrator.sweep_id"
STUDIES_VIEW = "studies"
_HOW_TO_FILTER = ' Filter with tags, for example `tags.task = "..." and tags.state = "complete"`.'


def find_experiment(client: "MlflowClient", plan: SweepPlan) -> "Experiment | None":
    """By its tag, so that a person may rename it."""
    from mlflow.entities import ViewType

    found = client.search_experiments(
        view_type=ViewType.ALL,
        filter_string=f"tags.`{SWEEP_TAG}` = '{sweep_id(plan)}'",
        order_by=["creation_time ASC"],
    )
    return found[0] if found else None


def open_experiment(client: "MlflowClient", plan: SweepPlan, artifacts: str | None) -> str:
    """The id of the sweep's experiment, which is made, or restored, where it is not there."""
    experiment = find_experiment(client, plan)
    if experiment is None:
        return _create(client, plan, artifacts)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
        logger.warning(
            "the MLflow experiment %s had been deleted; it is restored, since its sweep goes on",
            experiment.name,
        )
    return experiment.experiment_id


def page_of_sweep(client: "MlflowClient", plan: SweepPlan) -> str:
    """Where MLflow's pages show the sweep, after the server's address; empty if they do not."""
    experiment = find_experiment(client, plan)
    return "" if experiment is None else private.page_of(experiment.experiment_id, STUDIES_VIEW)


def _create(client: "MlflowClient", plan: SweepPlan, artifacts: str | None) -> str:
    # Another sweep, or another person, may have an experiment of this name on the server.
    taken = client.get_experiment_by_name(plan.name) is not None
    return client.create_experiment(
        f"{plan.name} ({plan.created})" if taken else plan.name,
        artifact_location=artifacts,
        tags={
            SWEEP_TAG: sweep_id(plan),
            "orchestrator.sweep": plan.name,
            private.EXPERIMENT_KIND_TAG: private.EXPERIMENT_KIND,
            "mlflow.note.content": sweep_note(plan) + _HOW_TO_FILTER,
            **_saved_views(plan),
        },
    )


def _saved_views(plan: SweepPlan) -> dict[str, str]:
    """Two named views of the table of runs, as experiment tags, in the form MLflow's pages keep."""
    searched = {d.name: None for space in plan.parsed_spaces.values() for d in space.dimensions}
    objectives = {task.metric: task.objective for task in plan.tasks}.values()
    keys = [f"val_{objective.key}" for objective in objectives]
    accuracies, state = [("metrics", key) for key in keys], ("tags", "state")
    duration = ("attributes", "Duration")
    counts = [("tags", f"num_{state}") for state in ("complete", "pruned", "failed")]
    best = [("tags", BEST_PREFIX + name) for name in searched]
    values = [("params", name) for name in searched]
    totals = [("metrics", name) for name in TOTALS]
    created = millis(datetime.fromisoformat(plan.created))
    return {
        # Oldest first: parents are older than their trials, so the first page holds them all.
        **_view(
            STUDIES_VIEW,
            "Studies",
            created,
            columns=[
                *(("metrics", f"best_{key}") for key in keys),
                ("tags", "val_majority_share"),
                *accuracies,
                duration,
                state,
                *counts,
                *best,
            ],
            facets={"orderByKey": "attributes.start_time", "orderByAsc": True},
        ),
        **_view(
            "trials",
            "Best trials",
            created,
            columns=[duration, *accuracies, *values, state, *totals],
            facets={
                "orderByKey": f"metrics.`{keys[0]}`",
                "orderByAsc": False,
                "searchFilter": "tags.kind = 'trial'",
            },
        ),
    }


def _view(
    key: str,
    name: str,
    created: int,
    *,
    columns: Sequence[tuple[str, str]],
    facets: Mapping[str, Any],
) -> dict[str, str]:
    run_name = "attributes.`Run Name`"
    state = {
        **facets,
        "selectedColumns": [f"{kind}.`{column}`" for kind, column in columns],
        "columnOrder": [run_name],
        "columnWidths": {run_name: 300},
    }
    view = {"name": name, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    return {f"{private.VIEW_TAG}{key}": json.dumps(view)}
