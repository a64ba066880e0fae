"""The last stage of a sweep: compare the finalists, retrain the winner, test it once per seed.

One image of 200 is half a point, so the best of a search is partly luck. The finalists of every
study are compared on folds of all labelled images, paired, and Optuna's Wilcoxon pruner stops the
clear losers. The winner is trained on trainval with the seeds of the protocol and tested after the
last epoch. Everything is written to the Optuna storage first, so that a killed stage goes on.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.data.cache import (
    DecodedSplit,
    ImageCache,
    open_final_splits,
    open_search_splits,
    task_fingerprint,
)
from orchestrator.data.suites import Suite
from orchestrator.data.task import FINAL_SPLITS
from orchestrator.plan.final_protocol import refuse_unsuited
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.prepare import planned_suite, reopen_suite
from orchestrator.plan.request import FinalRequest
from orchestrator.record.changes import refuse_other_weights, warn_of_other_software
from orchestrator.record.final_outcome import StudyOutcome, outcomes
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import Record
from orchestrator.record.steering import plan_now
from orchestrator.run.engine import Engine
from orchestrator.run.final_files import FINAL_FOLDER, RUNS_FOLDER, standing, write_final
from orchestrator.run.final_queue import FinalQueue
from orchestrator.run.final_stage import (
    StudyStage,
    plan_stage,
    sentences,
    study_sentences,
    with_images,
)
from orchestrator.support.phases import each, phase, shown
from orchestrator.tracking.reconcile import reconcile_final, register_winners
from orchestrator.tracking.trackers import chosen_tracker, tracking_uri
from orchestrator.training.backbone import image_transform
from orchestrator.training.final_trial import FinalContext
from orchestrator.training.own_methods import planned_methods

logger = logging.getLogger(__name__)


def finalize(
    plan: SweepPlan,
    folder: Path,
    request: FinalRequest,
    engine: Callable[[], Engine],
    *,
    cache: ImageCache,
    storage_url: str,
    say: Callable[[str], None],
    max_seconds: float | None = None,
) -> list[StudyOutcome]:
    """Run what is left of the last stage, then write final.json, final.parquet and the bundles.

    May be called again after a kill or an interrupt and goes on; where nothing is left, no image
    is opened. ValueError if the search is not over, if the stage was begun otherwise or its
    finalists are out of date, or if test images cannot be read: then nothing is started.
    """
    request.check()
    record = Record(plan, storage_url)
    plan = plan_now(plan, record)
    warn_of_other_software(plan, record)
    finals = FinalRecord(plan, record, storage_url)
    stages = plan_stage(
        plan,
        record,
        finals,
        request.protocol,
        folder,
        unfinished=request.unfinished,
        again=request.again,
    )
    suite = functools.cache(lambda: planned_suite(plan))
    if any(stage.num_left for stage in stages):
        _refuse_unsuited(stages, suite())
    if request.dry_run:
        for line in (*sentences(stages), *study_sentences(stages)):
            say(line)
        return []
    schedule = None
    if any(stage.num_left for stage in stages) or request.again:
        with phase("looking for machines"):
            chosen = engine()
        for line in sentences(stages, slots=chosen.slots):  # before a test image is opened
            say(line)
        suite = functools.cache(lambda: reopen_suite(plan, cache))
        prints = _open_test_images(plan, suite(), cache)
        with phase("checking the weights of the backbone"):
            refuse_other_weights(plan)
        stages = with_images(stages, finals, prints, folder, again=request.again)
        _begin(stages, finals, prints)
        schedule = functools.partial(
            _run_what_is_left,
            plan,
            suite(),
            FinalQueue(plan, finals, folder.absolute() / RUNS_FOLDER, say),
            chosen,
            cache=cache,
            max_seconds=max_seconds,
        )
    try:
        if schedule is not None:
            schedule()
    finally:
        with phase("writing tables and bundles"):
            found = write_final(plan, suite, finals, outcomes(plan, record, finals), folder)
    try:
        with phase(f"bringing {chosen_tracker().name} up to date"):
            reconcile_final(plan, record, finals, tracking_uri(folder))
        # As after a search: a model is registered when all trials have ended.
        winners = {
            o.study: folder / FINAL_FOLDER / f"{o.task}.yaml"
            for o in standing(plan, found)
            if o.num_finished_trials >= o.num_planned_trials
        }
        with phase("registering the winners"):
            register_winners(plan, tracking_uri(folder), winners)
    except Exception as error:
        logger.warning("%s could not be brought up to date: %s", chosen_tracker().name, error)
    return found


def _run_what_is_left(
    plan: SweepPlan,
    suite: Suite,
    queue: FinalQueue,
    engine: Engine,
    *,
    cache: ImageCache,
    max_seconds: float | None,
) -> None:
    context = FinalContext.of(
        plan.backbone,
        suite.tasks,
        fingerprints=plan.fingerprints,
        metrics=plan.metrics,
        cache=cache,
        device=engine.slots.device,
        cpu_threads=engine.slots.cpu_threads,
        gpu_share=engine.slots.gpu_share,
        engine=plan.engine,
        own_methods=planned_methods(plan.own_methods),
    )

    def decoded() -> Mapping[str, Mapping[str, DecodedSplit]]:
        transform = image_transform(plan.backbone)
        return {
            task.name: {
                **open_search_splits(task, transform, cache),
                **open_final_splits(task, transform, cache),
            }
            for task in suite.tasks
        }

    with shown(queue.progress):
        files = engine.driver_files(plan, decoded, cache=cache, kept_below=queue.runs_folder)
        engine.run(
            queue, replace(context, driver_files=files), sweep=plan.name, max_seconds=max_seconds
        )


def _begin(
    stages: Sequence[StudyStage], finals: FinalRecord, fingerprints: Mapping[str, str]
) -> None:
    for stage in stages:
        if not stage.begins:
            finals.go_on(stage.plan.name)
        elif stage.finalists:
            finals.begin(stage.plan.name, stage.protocol, fingerprints[stage.plan.task])


def _refuse_unsuited(stages: Sequence[StudyStage], suite: Suite) -> None:
    tasks = {task.name: task for task in suite.tasks}
    for protocol in dict.fromkeys(stage.protocol for stage in stages):
        names = dict.fromkeys(s.plan.task for s in stages if s.num_left and s.protocol == protocol)
        refuse_unsuited([tasks[name] for name in names], protocol)


def _open_test_images(plan: SweepPlan, suite: Suite, cache: ImageCache) -> dict[str, str]:
    """Fingerprints of trainval and test, whose images are all readable, by task."""
    transform = image_transform(plan.backbone)
    found = {}
    for task in each("opening the test images, tasks", suite.tasks, len(suite.tasks)):
        open_final_splits(task, transform, cache)
        found[task.name] = task_fingerprint(
            task, transform, splits=FINAL_SPLITS, hashes=cache.hashes
        )
    return found
