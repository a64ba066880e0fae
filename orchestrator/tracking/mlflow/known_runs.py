"""The runs of a sweep that MLflow has: which is whose, and which are there twice."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.tracking.backend import RunKey
from orchestrator.tracking.content import STUDY_TAG, TRIAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class Shown(NamedTuple):
    """A point of a metric in MLflow."""

    value: float
    timestamp: int


@dataclass
class KnownRun:
    """A run in MLflow as we last saw or left it."""

    run_id: str
    deleted: bool
    status: str
    end: int | None
    tags: dict[str, str]
    params: frozenset[str]
    """The names of those that are there: MLflow takes each once."""
    known_points: dict[int, Shown] | None
    """The points of the leading metric that are there, by step; None: not asked yet."""


def known(run: "Run") -> KnownRun:
    return KnownRun(
        run_id=run.info.run_id,
        deleted=run.info.lifecycle_stage == "deleted",
        status=run.info.status,
        end=run.info.end_time,
        tags=dict(run.data.tags),
        params=frozenset(map(sys.intern, run.data.params)),
        known_points=None,
    )


def list_runs(
    client: "MlflowClient", experiment_id: str
) -> tuple[dict[RunKey, KnownRun], list[str]]:
    """The run of each key, and the ids of those that are there a second time."""
    kept: dict[RunKey, Run] = {}
    doubles: list[str] = []
    for run in own_runs(client, experiment_id):
        key = (run.data.tags[STUDY_TAG], run.data.tags.get(TRIAL_TAG, ""))
        same = [run, kept[key]] if key in kept else [run]
        same.sort(key=_preference)
        kept[key] = same[0]
        doubles += [r.info.run_id for r in same[1:] if r.info.lifecycle_stage == "active"]
    return {key: known(run) for key, run in kept.items()}, doubles


def own_runs(client: "MlflowClient", experiment_id: str) -> Iterator["Run"]:
    """Runs of ours, also those in the trash; not those that a person made."""
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            run_view_type=ViewType.ALL,
            max_results=1000,
            page_token=token,
        )
        yield from (run for run in page if STUDY_TAG in run.data.tags)
        token = page.token
        if not token:
            return


def _preference(run: "Run") -> tuple[bool, int, str]:
    """Sorts the runs of one trial, the one to keep first."""
    amount = len(run.data.metrics) + len(run.data.params)
    return (run.info.lifecycle_stage == "deleted", -amount, run.info.run_id)
