"""The experiment of a sweep: found by its tag, made with its note and its saved views."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
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
STUDIES_VIEW, TRIALS_VIEW = "studies", "trials"
RUN_NAME = "attributes.`Run Name`"
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
    _renew_views(client, experiment, plan)
    return experiment.experiment_id


def renew_views(client: "MlflowClient", plans: Iterable[SweepPlan]) -> None:
    """Give the sweeps that are there the saved views of this version."""
    for plan in plans:
        if experiment := find_experiment(client, plan):
            _renew_views(client, experiment, plan)


def _renew_views(client: "MlflowClient", experiment: "Experiment", plan: SweepPlan) -> None:
    for name, view in _saved_views(plan).items():
        if experiment.tags.get(name) != view:
            client.set_experiment_tag(experiment.experiment_id, name, view)


def addresses_of(client: "MlflowClient", plans: Iterable[SweepPlan]) -> dict[str, str]:
    """Where MLflow's pages show the sweeps, after the server's address, by what is seen there.

    Of several also the one table of all their studies. A sweep that is not there has none.
    """
    seen: dict[str, str] = {}
    ids: list[str] = []
    for plan in plans:
        experiment = find_experiment(client, plan)
        if experiment is not None:
            ids.append(experiment.experiment_id)
            for what, view in (("studies", STUDIES_VIEW), ("best trials", TRIALS_VIEW)):
                seen[f"{experiment.name}, {what}"] = private.page_of(ids[-1], view)
    if len(ids) > 1:
        seen["all of them"] = private.page_of_several(ids, STUDIES_VIEW)
    return seen


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
    """Three named views of the table of runs, as experiment tags, in the form MLflow's pages keep.

    Columns stand in the order given; MLflow's own is all metrics by the alphabet, then all
    parameters, then all tags, so that throughput would come before accuracy and state.
    """
    searched = {d.name: None for space in plan.parsed_spaces.values() for d in space.dimensions}
    objectives = {task.metric: task.objective for task in plan.tasks}.values()
    keys = [f"val_{objective.key}" for objective in objectives]
    tests = [f"mean_test_{objective.key}" for objective in objectives]
    duration = ("attributes", "Duration")
    method, state = ("tags", "method"), ("tags", "state")
    counts = [("tags", f"num_{state}") for state in ("complete", "pruned", "failed")]
    created = millis(datetime.fromisoformat(plan.created))
    return {
        **_view(
            STUDIES_VIEW,
            "Studies",
            created,
            columns=[
                *(("metrics", f"best_{key}") for key in keys),
                *(("metrics", key) for key in tests),
                method,
                ("attributes", "Experiment Name"),  # in a table of several
                state,
                *counts,
                ("tags", "val_majority_share"),
                *(("tags", BEST_PREFIX + name) for name in searched),
                duration,
            ],
            facets={
                "orderByKey": f"metrics.`best_{keys[0]}`",
                "orderByAsc": False,
                "searchFilter": "tags.kind = 'study'",
            },
        ),
        **_view(
            TRIALS_VIEW,
            "Best trials",
            created,
            columns=[
                *(("metrics", key) for key in keys),
                method,
                state,
                ("tags", "epochs_run"),
                *(("params", name) for name in searched),
                duration,
                *(("metrics", name) for name in TOTALS),
            ],
            facets={
                "orderByKey": f"metrics.`{keys[0]}`",
                "orderByAsc": False,
                "searchFilter": "tags.kind = 'trial'",
            },
        ),
        # Sorted by anything but time, MLflow does not fold trials below their study. Oldest first:
        # a study is older than its trials, so that the first page holds them all.
        **_view(
            "nested",
            "Studies with their trials",
            created,
            columns=[
                *(("metrics", f"best_{key}") for key in keys),
                *(("metrics", key) for key in keys),
                method,
                state,
                *(("params", name) for name in searched),
                duration,
            ],
            facets={"orderByKey": "attributes.start_time", "orderByAsc": True},
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
    shown = [_column(*column) for column in columns]
    # What MLflow's table calls a column that has no name to choose it by.
    placed = {_column("attributes", "Duration"): "duration"}
    state = {
        **facets,
        "selectedColumns": shown,
        "columnOrder": [RUN_NAME, *(placed.get(column, column) for column in shown)],
        "columnWidths": {
            RUN_NAME: 260,
            # MLflow cuts a name that does not fit.
            **{c: max(90, 40 + 8 * len(name)) for c, (_, name) in zip(shown, columns, strict=True)},
        },
    }
    view = {"name": name, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    return {f"{private.VIEW_TAG}{key}": json.dumps(view)}


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
