"""Makes MLflow show what the record says: after a sweep, after its last stage, after an outage.

MLflow is a window, never a source; what it shows already is not written again.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import FINISHED, Record
from orchestrator.report.collect import collect_study
from orchestrator.report.page import study_page
from orchestrator.support.addresses import reason_of, redacted
from orchestrator.tracking.content import STATUS, STUDIES_VIEW, STUDY_TAG, TRIAL_TAG
from orchestrator.tracking.mlflow.registry import model_folder
from orchestrator.tracking.mlflow.store import TrackingError
from orchestrator.tracking.mlflow.writer import RunWriter

if TYPE_CHECKING:
    from mlflow.entities import Run

    from orchestrator.record.finals import FinalRecord

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""So often MLflow is asked before it counts as away."""


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What `reconcile` found and did, in trials."""

    created: int
    updated: int
    unchanged: int
    deleted: int
    """Deleted in MLflow by a person, and left so."""
    doubled: int
    """Second runs of a trial, moved to MLflow's trash."""


def reconcile(
    plan: SweepPlan,
    record: Record,
    tracking_uri: str,
    *,
    artifacts: Path | None = None,
    best_files: Callable[[str], list[Path]],
) -> Reconciled:
    """Make MLflow show what the record says; what it shows already is not written again.

    `best_files` names the files of a study's best trial, which become artifacts of the study's run.
    Raises TrackingError if MLflow cannot be written to; then it can simply be called again.
    """
    writer = RunWriter(plan, tracking_uri, artifacts)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _reconcile(writer, plan, record, best_files)
        except Exception as error:
            writer.disconnect()
            if isinstance(error, AssertionError | TypeError | LookupError | AttributeError):
                raise  # ours
            if attempt == ATTEMPTS:
                raise TrackingError(
                    f"MLflow at {redacted(tracking_uri)} cannot be written to: {reason_of(error)}"
                ) from None
    raise AssertionError("unreachable")


def _reconcile(
    writer: RunWriter,
    plan: SweepPlan,
    record: Record,
    best_files: Callable[[str], list[Path]],
) -> Reconciled:
    writer.connect()
    doubled = writer.delete_doubles()
    done: Counter[str] = Counter()
    for study in plan.studies:
        report = collect_study(plan, record, study)
        trials = [trial for trial in report.trials if trial.state in STATUS]
        writer.write_study(study.name, trials)
        for trial in trials:
            # The record keeps all metrics of an epoch only when the trial has ended.
            curve = trial.curve if trial.state in FINISHED else ()
            done[writer.write_trial(trial, curve)] += 1
        files = best_files(study.name)
        writer.write_files(study.name, files)
        writer.write_dataset(study.name)
        writer.write_importance(study.name, report.importance.shares)
        writer.write_page(study.name, trials, lambda report=report: study_page(report))
    return Reconciled(
        created=done["created"],
        updated=done["updated"],
        unchanged=done["unchanged"],
        deleted=done["deleted"],
        doubled=doubled,
    )


def register_winners(plan: SweepPlan, tracking_uri: str, bundles: Mapping[str, Path]) -> None:
    """Register the bundle of each task's winner as a model; one that is known stays as it is.

    `bundles` are descriptions (`<task>.yaml`) by study. One that cannot be registered keeps no
    other from it: TrackingError names those that could not, when all were tried.
    """
    writer = RunWriter(plan, tracking_uri, None)
    writer.connect()
    failed: list[str] = []
    for study, bundle in bundles.items():
        try:
            writer.register(study, bundle)
        except Exception as error:  # whatever MLflow, its server or the disk throw
            failed.append(f"{study} ({reason_of(error)})")
    if failed:
        raise TrackingError(f"not registered as models: {', '.join(failed)}")


def restore_models(plan: SweepPlan, tracking_uri: str, bundles: Sequence[Path]) -> int:
    """Make the files of registered models again, where they are gone and their bundles are not."""
    writer = RunWriter(plan, tracking_uri, None)
    folders = {model_folder(bundle): bundle for bundle in bundles}
    try:
        writer.connect()
        return sum(writer.restore_models(study.name, folders) for study in plan.studies)
    except Exception as error:
        raise TrackingError(f"models could not be written again: {reason_of(error)}") from None


def reconcile_final(
    plan: SweepPlan, record: Record, finals: "FinalRecord", tracking_uri: str
) -> None:
    """Show the last stage: a run per finalist and per seed beside the trials of their study."""
    from orchestrator.tracking.final_content import final_contents

    writer = RunWriter(plan, tracking_uri, None)
    writer.connect()
    for study in plan.studies:
        trials = [trial for trial in record.trials(study.name) if trial.state in STATUS]
        writer.write_study(study.name, trials)
        for content in final_contents(plan, study, finals):
            writer.write_child(content)


def experiment_page(plan: SweepPlan, tracking_uri: str) -> str | None:
    """Where MLflow's pages show the sweep, after the server's address; None if they do not."""
    experiment = RunWriter(plan, tracking_uri, None).find_experiment()
    if experiment is None:
        return None
    view = f"workflowType=machine_learning&viewStateShareKey={STUDIES_VIEW}"
    return f"#/experiments/{experiment.experiment_id}/runs?{view}"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What MLflow shows of a trial; of a study, where the number is empty."""

    study: str
    number: str
    state: str
    """As in the record, if its status says the same."""
    val_accuracy: float | None
    test_accuracy: float | None
    """Of a winner's run with one seed."""
    deleted: bool
    """By a person, in MLflow's pages: it is in the trash."""
    missing: Sequence[str]
    """Files that were put there and are gone."""


def tracked_runs(plan: SweepPlan, tracking_uri: str) -> list[TrackedRun]:
    """The runs of a sweep; nothing is written. TrackingError if MLflow does not answer."""
    writer = RunWriter(plan, tracking_uri, None)
    try:
        if not writer.look():
            return []
        return [_tracked(run, writer) for run in writer.own_runs()]
    except Exception as error:
        raise TrackingError(
            f"MLflow at {redacted(tracking_uri)} cannot be read: {reason_of(error)}"
        ) from None


def _tracked(run: "Run", writer: RunWriter) -> TrackedRun:
    tags = run.data.tags
    number, deleted = tags.get(TRIAL_TAG, ""), run.info.lifecycle_stage == "deleted"
    state = tags.get("state", "") if number else "study"
    if number and STATUS.get(state) != run.info.status:
        state = f"{state} with status {run.info.status}"
    return TrackedRun(
        study=tags[STUDY_TAG],
        number=number,
        state=state,
        val_accuracy=run.data.metrics.get("val_accuracy"),
        test_accuracy=run.data.metrics.get("test_accuracy"),
        deleted=deleted,
        missing=() if number or deleted else writer.missing_of(run),
    )
