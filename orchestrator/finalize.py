"""The last stage of a sweep: compare the finalists, retrain the winner, test it once per seed.

One image of 200 is half a point, so the best of a search is partly luck. The finalists of every
study are compared on folds of all labelled images, paired, and Optuna's Wilcoxon pruner stops the
clear losers. The winner is trained on trainval with the seeds of the protocol and tested after the
last epoch. Everything is written to the Optuna storage first, so that a killed stage goes on.
"""

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.backbone import image_transform
from orchestrator.bundle import Bundle, save_bundle
from orchestrator.config import TrialConfig
from orchestrator.data.cache import (
    ImageCache,
    open_final_splits,
    open_search_splits,
    task_fingerprint,
)
from orchestrator.data.task import FINAL_SPLITS
from orchestrator.depot import deliver
from orchestrator.export import BY_METHOD, describe
from orchestrator.final_protocol import FinalProtocol
from orchestrator.final_record import Finalist, FinalRecord, FinalRun
from orchestrator.final_trial import FinalContext, FinalTrial, FoldConfig, FoldTrial
from orchestrator.ledger import WORKER_DEATHS_ALLOWED, Run, rank
from orchestrator.mlflow_store import tracking_uri
from orchestrator.plan import PrunerPlan, StudyPlan, SweepPlan
from orchestrator.reconcile import reconcile_final, register_winners
from orchestrator.record import EpochRow, Record
from orchestrator.report.final import FINAL_FILE
from orchestrator.schedule import run_schedule, start_ray
from orchestrator.slots import Slots
from orchestrator.suites import Suite

logger = logging.getLogger(__name__)

RUNS_FOLDER = "final_runs"
FINAL_FOLDER = "final"
FINAL_TABLE = "final.parquet"

FINAL_SCHEMA = pa.schema(
    [
        pa.field("sweep", pa.string()),
        pa.field("study", pa.string()),
        pa.field("task", pa.string()),
        pa.field("space", pa.string()),
        pa.field("stage", pa.string(), metadata={"description": "finalist or final"}),
        pa.field("trial", pa.int32(), metadata={"description": "number in the search"}),
        pa.field("fold", pa.int32(), metadata={"description": "held out; null in final runs"}),
        pa.field("seed", pa.int64()),
        pa.field("state", pa.string(), metadata={"description": "of the finalist or the run"}),
        pa.field("fold_accuracy", pa.float64()),
        pa.field("test_accuracy", pa.float64()),
        pa.field("failure", pa.string()),
        pa.field("epochs_run", pa.int32()),
        pa.field("wall_seconds", pa.float64()),
        pa.field("config", pa.string(), metadata={"description": "JSON"}),
    ]
)
"""`final.parquet`: a row per fold of a finalist and per seed of a winner."""


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What the last stage found for one study."""

    task: str
    space: str
    winner: int | None
    """Number of the trial in the search."""
    why: str
    """How the winner was chosen, or why there is none."""
    cross_validation: float | None
    """The winner's mean accuracy over the folds."""
    test_accuracies: Mapping[int, float]
    """By seed, after the last epoch."""
    failed_seeds: Mapping[int, str]
    """With the reasons."""
    num_left: int
    """Runs that are still to be done."""
    num_finished_trials: int
    """Of the search, now."""
    num_planned_trials: int
    bundle_seed: int | None
    """The seed with the median test accuracy, whose prompts are in the bundle."""


def finalize(
    plan: SweepPlan,
    suite: Suite,
    folder: Path,
    slots: Slots,
    *,
    cache: ImageCache,
    storage_url: str,
    protocol: FinalProtocol,
    say: Callable[[str], None],
    ray_address: str | None = None,
    max_seconds: float | None = None,
) -> list[StudyOutcome]:
    """Run what is left of the last stage, then write final.json, final.parquet and the bundles.

    May be called again after a kill or an interrupt and goes on. ValueError if the stage was begun
    otherwise, or if test images cannot be read: then nothing is started.
    """
    folder = folder.absolute()  # workers run in folders of their own
    record = Record(plan, storage_url)
    fingerprints = _open_test_images(plan, suite, cache)
    finals = FinalRecord(plan, record, storage_url, protocol=protocol, fingerprints=fingerprints)
    context = FinalContext(
        backbone=plan.backbone,
        tasks={task.name: task.for_search() for task in suite.tasks},
        final_tasks={task.name: task for task in suite.tasks},
        fingerprints={task.name: task.fingerprint for task in plan.tasks},
        pruner=PrunerPlan(name="none", first_rung_epochs=1),
        cache_folder=str(cache.root),
        device=slots.device,
        cpu_threads=slots.cpu_threads,
        engine=plan.engine,
    )
    ledger = FinalLedger(plan, finals, folder / RUNS_FOLDER, say)
    try:
        if ledger.num_left:
            start_ray(slots, ray_address)
            if ray_address:
                transform = image_transform(plan.backbone)
                decoded = {
                    task.name: {
                        **open_search_splits(task, transform, cache),
                        **open_final_splits(task, transform, cache),
                    }
                    for task in suite.tasks
                }
                runs_folder = folder / RUNS_FOLDER
                delivery = deliver(plan, decoded, cache=cache, kept_below=runs_folder)
                context = replace(context, delivery=delivery)
            run_schedule(ledger, context, slots, sweep=plan.name, max_seconds=max_seconds)
    finally:
        outcomes = [_outcome(plan, study, record, finals) for study in plan.studies]
        best = _write_out(plan, suite, finals, outcomes, folder)
    try:
        reconcile_final(plan, record, finals, tracking_uri(folder))
        winners = {f"{o.task}.{o.space}": folder / FINAL_FOLDER / f"{o.task}.yaml" for o in best}
        register_winners(plan, tracking_uri(folder), winners)
    except Exception as error:
        logger.warning("MLflow could not be brought up to date: %s", error)
    return outcomes


def _open_test_images(plan: SweepPlan, suite: Suite, cache: ImageCache) -> dict[str, str]:
    """Fingerprints of trainval and test, whose images are all readable, by task."""
    transform = image_transform(plan.backbone)
    found = {}
    for task in suite.tasks:
        open_final_splits(task, transform, cache)
        found[task.name] = task_fingerprint(
            task, transform, splits=FINAL_SPLITS, hashes=cache.hashes
        )
    return found


@dataclass
class _Running:
    study: str
    number: int
    fold: int | None
    seed: int
    run: Run
    curve: list[EpochRow] = field(default_factory=list)


class FinalLedger:
    """Folds of finalists, then seeds of winners; a study goes on while others still compare."""

    def __init__(
        self, plan: SweepPlan, finals: FinalRecord, runs_folder: Path, say: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._finals = finals
        self._runs_folder = runs_folder
        self._say = say
        self._running: dict[str, _Running] = {}
        self._stopped = False
        """Because of the machine; nothing more is handed out."""

    @property
    def num_left(self) -> int:
        """Runs to be handed out if no finalist is stopped."""
        left = sum(num_left(self._finals, study.name) for study in self._plan.studies)
        return max(0, left - len(self._running))

    def next_run(self, tune_id: str, held: Sequence[str] = ()) -> Run | Literal["finished"] | None:
        if self._stopped:
            return "finished"
        ready = [runs for study in self._plan.studies if (runs := self._ready(study))]
        if ready:
            # The study with most to hand out: all of them advance together.
            best = min(ready, key=lambda runs: (-len(runs), rank(runs[0].run.config.task, held)))
            self._running[tune_id] = best[0]
            if best[0].fold is None:
                config = best[0].run.config
                self._finals.final_begun(best[0].study, best[0].seed, config.config)
            return best[0].run
        # A fold that is running may yet decide a winner, whose seeds follow.
        more = any(running.fold is not None for running in self._running.values())
        return None if more else "finished"

    def reported(self, tune_id: str, result: dict[str, Any]) -> bool:
        running = self._running[tune_id]
        rows: list[EpochRow] = result["rows"]
        if rows and rows[0]["epoch"] == 1:
            running.curve.clear()  # a run whose worker died begins again
        running.curve += rows
        if result["blameless"]:  # it is run again by the next `finalize`
            logger.warning("stopped: %s: %s", running.run.files, result["failure"])
            self._stopped = True
            return True
        if result["failure"]:
            self._failed(running, result["failure"])
        elif result["finished"]:
            facts = {
                key.removeprefix("facts/"): value
                for key, value in result.items()
                if key.startswith("facts/")
            }
            self._done(running, facts)
        elif running.fold is None or self._state(running) == "running":
            return False
        running.run.checkpoint.unlink(missing_ok=True)
        return True

    def worker_died(self, tune_id: str, reason: str) -> None:
        running = self._running[tune_id]
        logger.warning("%s: its worker died (%s); it goes again", running.run.files, reason)

    def worker_lost(self, tune_id: str, reason: str) -> None:
        running = self._running[tune_id]
        if self._state(running) == "running":
            deaths = WORKER_DEATHS_ALLOWED + 1
            self._failed(running, f"its worker died {deaths} times, last: {reason}")

    def forget(self, tune_id: str) -> None:
        self._running.pop(tune_id, None)

    def _ready(self, study: StudyPlan) -> list[_Running]:
        """Runs of a study that can be handed out now."""
        name = study.name
        busy = [running for running in self._running.values() if running.study == name]
        winner = self._finals.winner(name)
        if winner is None:
            handed = {(running.number, running.fold) for running in busy}
            return [
                self._fold_run(study, finalist, fold)
                for finalist, fold in _folds_left(self._finals, name)
                if (finalist.number, fold) not in handed
            ]
        handed_seeds = {running.seed for running in busy}
        config = self._finals.finalist(name, winner.number).trial.config
        return [
            self._final_run(study, winner.number, config, seed)
            for seed in _seeds_left(self._finals, name)
            if seed not in handed_seeds
        ]

    def _fold_run(self, study: StudyPlan, finalist: Finalist, fold: int) -> _Running:
        # Paired: all finalists of a task have the same folds, and on each fold the same seed.
        seed = zlib.crc32(f"{self._plan.seed}/{study.name}/fold {fold}".encode())
        config = FoldConfig(
            study=study.name,
            task=study.task,
            number=finalist.number,
            method=self._plan.parsed_spaces[study.space].method,
            config=dict(finalist.trial.config),
            seed=seed,
            fold=fold,
            num_folds=self._finals.protocol.num_folds,
            fold_seed=self._plan.seed,
        )
        files = self._runs_folder / study.name / f"trial-{finalist.number}-fold-{fold}"
        run = Run(FoldTrial, config, str(files))
        return _Running(study.name, finalist.number, fold, seed, run)

    def _final_run(
        self, study: StudyPlan, number: int, config: Mapping[str, Any], seed: int
    ) -> _Running:
        trial = TrialConfig(
            study=study.name,
            task=study.task,
            number=number,
            method=self._plan.parsed_spaces[study.space].method,
            config=dict(config),
            seed=seed,
        )
        run = Run(FinalTrial, trial, str(_files(self._runs_folder, study.name, seed)))
        return _Running(study.name, number, None, seed, run)

    def _state(self, running: _Running) -> str:
        if running.fold is not None:
            return self._finals.finalist(running.study, running.number).state
        runs = self._finals.final_runs(running.study)
        return next(run.state for run in runs if run.seed == running.seed)

    def _done(self, running: _Running, facts: Mapping[str, Any]) -> None:
        study, number = running.study, running.number
        ended = {"curve": running.curve, "facts": facts}
        if running.fold is None:
            self._finals.final_done(study, running.seed, **ended)
            accuracy = facts["test_accuracy"]
            self._say(f"{study} seed {running.seed}: test {100 * accuracy:.1f} %")
            return
        self._finals.fold_done(study, number, running.fold, **ended)
        accuracy = running.curve[-1]["val_accuracy"]
        finalist = self._finals.finalist(study, number)
        stopped = ", stopped: clearly worse than the best" if finalist.state == "pruned" else ""
        self._say(
            f"{study} #{number} fold {running.fold + 1} of {self._finals.protocol.num_folds}: "
            f"{100 * accuracy:.1f} %{stopped}"
        )
        self._say_winner(study)

    def _failed(self, running: _Running, reason: str) -> None:
        study, number = running.study, running.number
        if running.fold is None:
            self._finals.final_failed(study, running.seed, reason, curve=running.curve)
            self._say(f"{study} seed {running.seed}: failed: {reason}")
            return
        where = f"fold {running.fold + 1}"
        self._finals.finalist_failed(study, number, f"{where}: {reason}")
        self._say(f"{study} #{number} {where}: failed: {reason}")
        self._say_winner(study)

    def _say_winner(self, study: str) -> None:
        winner = self._finals.winner(study)
        if winner is not None:
            self._say(f"{study}: {winner.why}")


def num_left(finals: FinalRecord, study: str) -> int:
    """Runs of a study that are left if no finalist is stopped."""
    finalists = finals.finalists(study)
    if not finalists or all(finalist.state == "failed" for finalist in finalists):
        return 0
    return len(_folds_left(finals, study)) + len(_seeds_left(finals, study))


def _folds_left(finals: FinalRecord, study: str) -> list[tuple[Finalist, int]]:
    """All folds of the best of the search, whom the others are measured against; then by fold."""
    left = [
        (finalist, fold, rank)
        for rank, finalist in enumerate(finals.finalists(study))
        if finalist.state == "running"
        for fold in range(finals.protocol.num_folds)
        if fold not in finalist.fold_accuracies
    ]
    left.sort(key=lambda item: (item[2] > 0, item[1], item[2]))
    return [(finalist, fold) for finalist, fold, _ in left]


def _seeds_left(finals: FinalRecord, study: str) -> list[int]:
    ended = {run.seed for run in finals.final_runs(study) if run.state in ("complete", "failed")}
    return [seed for seed in finals.protocol.seeds if seed not in ended]


def _files(runs_folder: Path, study: str, seed: int) -> Path:
    return runs_folder / study / f"seed-{seed}"


def _outcome(
    plan: SweepPlan, study: StudyPlan, record: Record, finals: FinalRecord
) -> StudyOutcome:
    winner = finals.winner(study.name)
    finalists = finals.finalists(study.name)
    runs = finals.final_runs(study.name)
    finished = [t for t in record.trials(study.name) if t.state in ("complete", "pruned", "failed")]
    if winner is not None:
        why = winner.why
    elif not finalists:
        why = "no trial of the search was complete"
    elif all(finalist.state == "failed" for finalist in finalists):
        why = "all finalists failed: " + "; ".join(f"#{f.number} {f.failure}" for f in finalists)
    else:
        why = "the finalists are still being compared"
    complete = [run for run in runs if run.state == "complete"]
    left = num_left(finals, study.name)
    return StudyOutcome(
        task=study.task,
        space=study.space,
        winner=winner.number if winner else None,
        why=why,
        cross_validation=(finals.finalist(study.name, winner.number).accuracy if winner else None),
        test_accuracies={run.seed: run.test_accuracy or 0.0 for run in complete},
        failed_seeds={run.seed: run.failure or "" for run in runs if run.state == "failed"},
        num_left=left,
        num_finished_trials=len(finished),
        num_planned_trials=study.num_trials,
        bundle_seed=median_run(complete).seed if complete and not left else None,
    )


def median_run(runs: Sequence[FinalRun]) -> FinalRun:
    """The run with the median test accuracy; of an even number the lower of the two."""
    ranked = sorted(runs, key=lambda run: run.test_accuracy or 0.0)
    return ranked[(len(ranked) - 1) // 2]


def _write_out(
    plan: SweepPlan,
    suite: Suite,
    finals: FinalRecord,
    outcomes: Sequence[StudyOutcome],
    folder: Path,
) -> list[StudyOutcome]:
    """Table, summary and bundles; the outcomes whose bundles stand for their tasks."""
    document = json.dumps([asdict(outcome) for outcome in outcomes], indent=2)
    _replace(folder / FINAL_FILE, document.encode())
    rows = [row for study in plan.studies for row in _rows(plan, study, finals)]
    part = folder / f"{FINAL_TABLE}.part"
    pq.write_table(pa.Table.from_pylist(rows, schema=FINAL_SCHEMA), part)
    part.replace(folder / FINAL_TABLE)
    winners: list[StudyOutcome] = []
    for task in plan.tasks:
        ready = [o for o in outcomes if o.task == task.name and o.bundle_seed is not None]
        for outcome in ready:
            _save(plan, suite, finals, outcome, folder, folder / FINAL_FOLDER / BY_METHOD)
            _keep_median(outcome, folder)
        # Never by test accuracy: that would be a choice made on the test images.
        best = max(ready, key=lambda o: o.cross_validation or 0.0, default=None)
        if best is not None:
            _save(plan, suite, finals, best, folder, folder / FINAL_FOLDER)
            winners.append(best)
    return winners


def _save(
    plan: SweepPlan,
    suite: Suite,
    finals: FinalRecord,
    outcome: StudyOutcome,
    folder: Path,
    target: Path,
) -> None:
    study = f"{outcome.task}.{outcome.space}"
    if target.name == BY_METHOD:
        target = target / outcome.space
    run = next(run for run in finals.final_runs(study) if run.seed == outcome.bundle_seed)
    tensors = Path(f"{_files(folder / RUNS_FOLDER, study, run.seed)}.safetensors")
    if not tensors.is_file():
        logger.warning("%s: %s is gone, so no bundle is written", study, tensors)
        return
    save_bundle(final_bundle(plan, suite, finals, outcome, run, tensors), target, tensors)


def _keep_median(outcome: StudyOutcome, folder: Path) -> None:
    """The tuned weights of the other seeds are in no bundle, and of full fine-tuning each is large.

    They can be trained again from configuration and seed.
    """
    study = f"{outcome.task}.{outcome.space}"
    assert outcome.bundle_seed is not None
    kept = _files(folder / RUNS_FOLDER, study, outcome.bundle_seed).name
    for path in (folder / RUNS_FOLDER / study).glob("seed-*.safetensors"):
        if path.stem != kept:
            path.unlink()


def final_bundle(
    plan: SweepPlan,
    suite: Suite,
    finals: FinalRecord,
    outcome: StudyOutcome,
    run: FinalRun,
    tensors: Path,
) -> Bundle:
    """The winner of a study as it was trained on trainval with one seed."""
    trial = finals.finalist(f"{outcome.task}.{outcome.space}", run.trial).trial
    bundle = describe(plan, suite, replace(trial, seed=run.seed, facts=run.facts), tensors)
    return replace(
        bundle, stage="final", val_accuracy=None, test_accuracies=dict(outcome.test_accuracies)
    )


def _rows(plan: SweepPlan, study: StudyPlan, finals: FinalRecord) -> list[dict[str, Any]]:
    common = {"sweep": plan.name, "study": study.name, "task": study.task, "space": study.space}
    rows = [
        {
            **common,
            "stage": "finalist",
            "trial": finalist.number,
            "fold": fold,
            "state": finalist.state,
            "fold_accuracy": accuracy,
            "failure": finalist.failure,
            "epochs_run": len(finalist.fold_curves[fold]),
            "wall_seconds": finalist.fold_facts[fold].get("wall_seconds"),
            "config": json.dumps(dict(finalist.trial.config)),
        }
        for finalist in finals.finalists(study.name)
        for fold, accuracy in finalist.fold_accuracies.items()
    ]
    rows += [
        {
            **common,
            "stage": "final",
            "trial": run.trial,
            "seed": run.seed,
            "state": run.state,
            "test_accuracy": run.test_accuracy,
            "failure": run.failure,
            "epochs_run": len(run.curve),
            "wall_seconds": run.facts.get("wall_seconds"),
            "config": json.dumps(dict(finals.finalist(study.name, run.trial).trial.config)),
        }
        for run in finals.final_runs(study.name)
    ]
    return rows


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
