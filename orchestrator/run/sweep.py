"""A sweep from its plan to its files: record, schedule, tracking, table and bundles together."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.bundle.export import BEST_FOLDER, TRIALS_FOLDER, export_best
from orchestrator.data.cache import DecodedSplit, ImageCache, open_search_splits
from orchestrator.data.suites import Suite
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.database import StorageError
from orchestrator.record.record import Record, open_record
from orchestrator.record.steering import plan_now
from orchestrator.record.stored_plan import store_plan
from orchestrator.report.results import RESULTS_FILE, write_results
from orchestrator.run.engine import Engine
from orchestrator.run.first_epoch import UntilTheFirstEpoch
from orchestrator.run.lost_weights import LostWeightsQueue
from orchestrator.run.progress import Progress
from orchestrator.run.queue import RunQueue
from orchestrator.run.search_queue import Observer, SearchQueue
from orchestrator.run.steering_watch import SteeringWatch
from orchestrator.run.trial_context import context_of
from orchestrator.support.phases import phase
from orchestrator.support.stopping import ending_at_once, stop_requested
from orchestrator.tracking.reconcile import reconcile, register_winners
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.trackers import tracker_at, tracking_uri
from orchestrator.training.backbone import image_transform

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run of the schedule ended."""

    num_finished: int
    num_planned: int
    num_failed: int
    tracked: bool
    """False: MLflow was away; `resume` fills in what is missing there."""
    stop_reason: str | None
    """Why the sweep stopped before its end, where the reason is not a person's."""


def run_sweep(
    plan: SweepPlan,
    suite: Suite,
    folder: Path,
    engine: Engine,
    *,
    cache: ImageCache,
    storage_url: str | None = None,
    max_seconds: float | None = None,
    view: Callable[[Progress], AbstractContextManager[Observer]] | None = None,
) -> Outcome:
    """Run what is left of the plan, then write table, bundles and what MLflow still lacks."""
    folder = folder.absolute()  # workers run in folders of their own
    record = open_record(plan, folder, storage_url)
    store_plan(plan, record)
    watch = SteeringWatch(record, num_slots=engine.slots.num_slots)
    progress = Progress(plan_now(plan, record), record)
    progress.paused_text = watch.steering.paused_text
    uri = tracking_uri(folder)
    tracker = Tracker(progress.plan, uri, folder=folder, earlier=record.each_trial())
    context = context_of(plan, suite, engine.slots, cache)

    def decoded() -> Mapping[str, Mapping[str, DecodedSplit]]:
        transform = image_transform(plan.backbone)
        return {task.name: open_search_splits(task, transform, cache) for task in suite.tasks}

    def train(queue: RunQueue, max_seconds: float | None = None) -> None:
        if queue.num_left:  # nothing is started for nothing
            below = folder / TRIALS_FOLDER
            files = engine.driver_files(plan, decoded, cache=cache, kept_below=below)
            here = replace(context, driver_files=files)
            engine.run(queue, here, sweep=plan.name, max_seconds=max_seconds)

    try:
        if progress.finished < progress.planned:
            with ending_at_once():
                engine.start()
        seen = view(progress) if view and stop_requested() is None else nullcontext()
        with seen as shown, UntilTheFirstEpoch() as waiting, watch:
            observers: Sequence[Observer] = [
                progress,
                tracker,
                waiting,
                *([shown] if shown else []),
            ]
            queue = SearchQueue(record, folder / TRIALS_FOLDER, observers, watch)
            if stop_requested() is None:
                train(queue, max_seconds)
        if progress.finished == plan_now(plan, record).num_trials:
            train(LostWeightsQueue(record, folder / TRIALS_FOLDER))
    except StorageError:
        raise  # what is written out is read from the storage: `resume` does it
    except BaseException:
        _write_out(plan, record, suite, folder, tracker, uri)
        raise
    tracked = _write_out(plan, record, suite, folder, tracker, uri)
    return Outcome(
        num_finished=progress.finished,
        num_planned=plan_now(plan, record).num_trials,
        num_failed=sum(trial.state == "failed" for trial in record.each_trial()),
        tracked=tracked,
        stop_reason=queue.stop_reason,
    )


def _write_out(
    plan: SweepPlan, record: Record, suite: Suite, folder: Path, tracker: Tracker, uri: str
) -> bool:
    plan = plan_now(plan, record)
    with phase("writing the table and the best configurations"):
        write_results(plan, record, folder / RESULTS_FILE)
        exported = export_best(
            plan, record, suite, trials_folder=folder / TRIALS_FOLDER, folder=folder / BEST_FOLDER
        )
    name = tracker_at(uri).name
    with phase(f"sending what is left to {name}"):
        if not tracker.close(timeout_seconds=30):
            return False
    try:
        with phase(f"bringing {name} up to date"):
            reconcile(plan, record, uri, best_files=lambda study: exported.files.get(study, []))
        if all(record.num_finished(study.name) >= study.num_trials for study in plan.studies):
            best = folder / BEST_FOLDER
            winners = {trial.study: best / f"{t}.yaml" for t, trial in exported.best.items()}
            with phase("registering the winners"):
                register_winners(plan, uri, winners)
    except Exception as error:
        # The sweep itself is safe in the record; the reason is told, the exit is not spoilt.
        logger.warning("%s could not be brought up to date: %s", tracker_at(uri).name, error)
        return False
    return True
