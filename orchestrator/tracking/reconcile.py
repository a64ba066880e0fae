"""Makes a tracker show what the record says: after a sweep, its last stage, or an outage.

A tracker is a window, never a source; what it shows already is not written again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import FINISHED, FROZEN_STATE, Record
from orchestrator.report.collect import collect_study
from orchestrator.support.addresses import reason_of, redacted
from orchestrator.tracking.backend import Backend, ShownRun, TrackingError
from orchestrator.tracking.content import shown_trials, study_content, trial_content
from orchestrator.tracking.study_files import bundle_digest, figures, space_and_best
from orchestrator.tracking.trackers import tracker_at

if TYPE_CHECKING:
    from orchestrator.record.finals import FinalRecord

ATTEMPTS = 3
"""How often a tracker is asked before it counts as away."""


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What `reconcile` found and did, in trials."""

    created: int
    updated: int
    unchanged: int
    deleted: int
    """Deleted in the tracker by a person, and left so."""
    doubled: int
    """Second runs of a trial, moved to the tracker's trash."""


def reconcile(
    plan: SweepPlan,
    record: Record,
    tracking_uri: str,
    *,
    folder: Path | None = None,
    best_files: Callable[[str], list[Path]],
) -> Reconciled:
    """Make the tracker show what the record says; what it shows already is not written again.

    `folder`: that of the sweep, for files that no server takes. `best_files` names the files of a
    study's best trial, which become files of the study's run. Raises TrackingError if the tracker
    cannot be written to; then it can simply be called again.
    """
    tracker = tracker_at(tracking_uri)
    backend = tracker.open(plan, tracking_uri, folder)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _reconcile(backend, plan, record, best_files)
        except Exception as error:
            backend.disconnect()
            if isinstance(error, AssertionError | TypeError | LookupError | AttributeError):
                raise  # ours
            if attempt == ATTEMPTS:
                raise TrackingError(
                    f"{tracker.name} at {redacted(tracking_uri)} cannot be written to: "
                    f"{reason_of(error)}"
                ) from None
    raise AssertionError("unreachable")


def _reconcile(
    backend: Backend,
    plan: SweepPlan,
    record: Record,
    best_files: Callable[[str], list[Path]],
) -> Reconciled:
    backend.connect()
    doubled = backend.delete_doubles()
    done: Counter[str] = Counter()
    for study in plan.studies:
        report = collect_study(plan, record, study)
        trials = shown_trials(report.trials)
        content = study_content(plan, study, trials)
        backend.write_run(content)
        for trial in trials:
            # The record keeps all metrics of an epoch only when the trial has ended.
            curve = trial.curve if trial.state in (*FINISHED, FROZEN_STATE) else ()
            done[backend.write_run(trial_content(plan, trial, curve))] += 1
        for files in space_and_best(plan, study.name, best_files(study.name)):
            backend.write_files(content.key, files)
        backend.write_dataset(content.key, plan.task(study.task))
        for files in figures(report):
            backend.write_files(content.key, files)
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
    backend = tracker_at(tracking_uri).open(plan, tracking_uri)
    backend.connect()
    failed: list[str] = []
    for study, bundle in bundles.items():
        try:
            backend.register((study, ""), bundle)
        except Exception as error:  # whatever the tracker, its server or the disk throw
            failed.append(f"{study} ({reason_of(error)})")
    if failed:
        raise TrackingError(f"not registered as models: {', '.join(failed)}")


def restore_models(plan: SweepPlan, tracking_uri: str, bundles: Sequence[Path]) -> int:
    """Make the files of registered models again, where they are gone and their bundles are not."""
    backend = tracker_at(tracking_uri).open(plan, tracking_uri)
    by_digest = {bundle_digest(bundle): bundle for bundle in bundles}
    try:
        backend.connect()
        return sum(backend.restore_models((study.name, ""), by_digest) for study in plan.studies)
    except Exception as error:
        raise TrackingError(f"models could not be written again: {reason_of(error)}") from None


def reconcile_final(
    plan: SweepPlan, record: Record, finals: "FinalRecord", tracking_uri: str
) -> None:
    """Show the last stage: a run per finalist and per seed beside the trials of their study."""
    from orchestrator.tracking.final_content import final_contents, with_test

    backend = tracker_at(tracking_uri).open(plan, tracking_uri)
    backend.connect()
    for study in plan.studies:
        content = study_content(plan, study, shown_trials(record.trials(study.name)))
        backend.write_run(with_test(content, plan, study, finals))
        for content in final_contents(plan, study, finals):
            backend.write_run(content)


def tracked_runs(plan: SweepPlan, tracking_uri: str) -> list[ShownRun]:
    """The runs of a sweep; nothing is written. TrackingError if the tracker does not answer."""
    tracker = tracker_at(tracking_uri)
    try:
        return list(tracker.open(plan, tracking_uri).shown_runs())
    except Exception as error:
        raise TrackingError(
            f"{tracker.name} at {redacted(tracking_uri)} cannot be read: {reason_of(error)}"
        ) from None
