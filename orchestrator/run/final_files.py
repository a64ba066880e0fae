"""The files of the last stage: `final.json`, `final.parquet`, and bundles in `final/`.

All are made from the storage. A bundle that says what the storage says stays as it is; those of an
earlier round move to `final/round-1/` when the next one has its own.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.bundle.bundle import (
    BUNDLE_SUFFIXES,
    Bundle,
    read_bundle,
    save_bundle,
)
from orchestrator.bundle.export import BY_METHOD, describe
from orchestrator.data.suites import Suite
from orchestrator.plan.final_protocol import MEDIAN_SEED
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.record.final_outcome import StudyOutcome
from orchestrator.record.finalists import Finalist
from orchestrator.record.finals import FinalRecord, FinalRun
from orchestrator.report.final import FINAL_FILE
from orchestrator.run.final_queue import files_of_round
from orchestrator.support.checksum import sha256_of
from orchestrator.support.whole_file import whole_file

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
        pa.field("metric", pa.string(), metadata={"description": "what the accuracies are"}),
        pa.field("trial", pa.int32(), metadata={"description": "number in the search"}),
        pa.field(
            "fold",
            pa.int32(),
            metadata={"description": "held out; null in final runs, and of a repeat that had none"},
        ),
        pa.field(
            "repeat",
            pa.int32(),
            metadata={"description": "0: first seeds; 1 and more: the same fold with others"},
        ),
        pa.field("seed", pa.int64()),
        pa.field(
            "state",
            pa.string(),
            metadata={"description": "of the finalist in this repeat, or of the run"},
        ),
        pa.field("fold_accuracy", pa.float64()),
        pa.field("test_accuracy", pa.float64()),
        pa.field("failure", pa.string()),
        pa.field("epochs_run", pa.int32()),
        pa.field("wall_seconds", pa.float64()),
        pa.field("config", pa.string(), metadata={"description": "JSON"}),
        pa.field("round", pa.int32(), metadata={"description": "the highest is the newest"}),
        pa.field(
            "num_trials_at_choice",
            pa.int32(),
            metadata={"description": "ended in the search when the finalists were chosen"},
        ),
        pa.field("num_planned_trials", pa.int32(), metadata={"description": "of the study"}),
    ]
)
"""`final.parquet`: a row per fold of a finalist and per seed of a winner, of all rounds."""


def write_final(
    plan: SweepPlan,
    suite: Callable[[], Suite],
    finals: FinalRecord,
    outcomes: Sequence[StudyOutcome],
    folder: Path,
) -> list[StudyOutcome]:
    """Write summary, table and bundles; the outcomes with the seeds that are in the bundles.

    `suite` is asked for only where a bundle must be made.
    """
    outcomes = [_with_kept_seed(with_older_bundle(o, folder), folder) for o in outcomes]
    document = json.dumps([asdict(outcome) for outcome in outcomes], indent=2)
    document = re.sub(r"\[\n[\d\s,]+\]", _in_one_line, document)  # counts of up to 100 classes
    with whole_file(folder / FINAL_FILE) as file:
        file.write(document.encode())
    rows = [row for study in plan.studies for row in _rows(plan, study, finals)]
    with whole_file(folder / FINAL_TABLE) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=FINAL_SCHEMA), file)
    for outcome, place in bundles_wanted(plan, outcomes, folder):
        if not is_bundle_of(place, outcome):
            _save(plan, suite, finals, outcome, folder, place)
    for outcome in outcomes:
        if outcome.bundle_seed is not None:
            _keep_one(outcome, folder)
    return outcomes


def _in_one_line(numbers: re.Match[str]) -> str:
    return json.dumps(json.loads(numbers[0]))


def standing(plan: SweepPlan, outcomes: Sequence[StudyOutcome]) -> list[StudyOutcome]:
    """The outcomes whose bundles stand for their tasks: the best over the folds.

    Never by test accuracy: that would be a choice made on the test images.
    """
    found = []
    for task in plan.tasks:
        ready = [o for o in outcomes if o.task == task.name and o.bundle_seed is not None]
        best = max(ready, key=lambda o: o.cross_validation or 0.0, default=None)
        if best is not None:
            found.append(best)
    return found


def bundles_wanted(
    plan: SweepPlan, outcomes: Sequence[StudyOutcome], folder: Path
) -> list[tuple[StudyOutcome, Path]]:
    """The descriptions (`<task>.yaml`) that a finished stage has: of methods, then of tasks."""
    final = folder / FINAL_FOLDER
    by_method = [
        (outcome, final / BY_METHOD / outcome.space / f"{outcome.task}.yaml")
        for outcome in outcomes
        if outcome.bundle_seed is not None
    ]
    return by_method + [(o, final / f"{o.task}.yaml") for o in standing(plan, outcomes)]


def is_bundle_of(description: Path, outcome: StudyOutcome) -> bool:
    """Whether the bundle is there, whole, and says what the outcome says."""
    try:
        bundle = read_bundle(description)
        return (
            bundle.stage == "final"
            and (bundle.trial.study, bundle.trial.number) == (outcome.study, outcome.winner)
            and bundle.trial.seed == outcome.bundle_seed
            and bundle.round == outcome.round
            and dict(bundle.test_accuracies) == dict(outcome.test_accuracies)
            and sha256_of(description.with_suffix(".safetensors")) == bundle.tensors_sha256
        )
    except (ValueError, OSError):
        return False


def with_older_bundle(outcome: StudyOutcome, folder: Path) -> StudyOutcome:
    """The outcome with the seed of the bundle that an older version made of it, if there is one."""
    path = folder / FINAL_FOLDER / BY_METHOD / outcome.space / f"{outcome.task}.yaml"
    try:
        bundle = read_bundle(path)
    except (ValueError, OSError):
        return outcome
    found = replace(outcome, bundle_seed=bundle.trial.seed, seed_rule=MEDIAN_SEED)
    is_older = outcome.bundle_seed is not None and not bundle.seed_rule
    return found if is_older and is_bundle_of(path, found) else outcome


def _with_kept_seed(outcome: StudyOutcome, folder: Path) -> StudyOutcome:
    """Where the bundle of an older version is gone: with the seed whose weights it kept."""
    runs = files_of_round(folder / RUNS_FOLDER, outcome.study, outcome.round)
    kept = [path.stem.removeprefix("seed-") for path in runs.glob("seed-*.safetensors")]
    has_its_own = outcome.bundle_seed is None or str(outcome.bundle_seed) in kept
    if has_its_own or outcome.seed_rule == MEDIAN_SEED or len(kept) != 1:
        return outcome
    seed = next((seed for seed in outcome.test_accuracies if str(seed) == kept[0]), None)
    return outcome if seed is None else replace(outcome, bundle_seed=seed, seed_rule=MEDIAN_SEED)


def final_bundle(
    plan: SweepPlan,
    suite: Suite,
    finals: FinalRecord,
    outcome: StudyOutcome,
    run: FinalRun,
    tensors: Path,
) -> Bundle:
    """The winner of a study as it was trained on trainval with one seed."""
    trial = finals.finalist(outcome.study, run.trial).trial
    bundle = describe(plan, suite, replace(trial, seed=run.seed, facts=run.facts), tensors)
    return replace(
        bundle,
        stage="final",
        val_accuracy=None,
        test_accuracies=dict(outcome.test_accuracies),
        num_images=outcome.num_test,
        majority=outcome.test_majority,
        baseline=outcome.test_baseline,
        cross_validation=outcome.cross_validation,
        cross_validation_interval=outcome.cross_validation_interval,
        effective_images=outcome.test_effective_images,
        seed_rule=outcome.seed_rule,
        round=outcome.round,
        num_openings=outcome.num_openings,
    )


def _save(
    plan: SweepPlan,
    suite: Callable[[], Suite],
    finals: FinalRecord,
    outcome: StudyOutcome,
    folder: Path,
    description: Path,
) -> None:
    _put_aside(description, outcome.round, folder / FINAL_FOLDER)
    run = next(run for run in finals.final_runs(outcome.study) if run.seed == outcome.bundle_seed)
    runs = files_of_round(folder / RUNS_FOLDER, outcome.study, outcome.round)
    tensors = runs / f"seed-{run.seed}.safetensors"
    if not tensors.is_file():
        logger.warning("%s: %s is gone, so no bundle is written", outcome.study, tensors)
        return
    bundle = final_bundle(plan, suite(), finals, outcome, run, tensors)
    save_bundle(bundle, description.parent, tensors)


def _put_aside(description: Path, round: int, final_folder: Path) -> None:
    """Keep a bundle of an earlier round, below `round-<n>/`, before it is replaced."""
    try:
        earlier = read_bundle(description).round
    except (ValueError, OSError):
        return
    if earlier >= round:
        return
    place = final_folder / f"round-{earlier}" / description.parent.relative_to(final_folder)
    place.mkdir(parents=True, exist_ok=True)
    for suffix in BUNDLE_SUFFIXES:
        file = description.with_suffix(suffix)
        if file.is_file():
            shutil.copy2(file, place / file.name)


def _keep_one(outcome: StudyOutcome, folder: Path) -> None:
    """The tuned weights of the other seeds are in no bundle, and of full fine-tuning each is large.

    They can be trained again from configuration and seed.
    """
    runs = files_of_round(folder / RUNS_FOLDER, outcome.study, outcome.round)
    kept = runs / f"seed-{outcome.bundle_seed}.safetensors"
    if not kept.is_file():
        return  # the others may be all that is left
    for path in runs.glob("seed-*.safetensors"):
        if path != kept:
            path.unlink()


def _rows(plan: SweepPlan, study: StudyPlan, finals: FinalRecord) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(1, finals.num_rounds(study.name) + 1):
        common = {
            "sweep": plan.name,
            "study": study.name,
            "task": study.task,
            "space": study.space,
            "metric": plan.task(study.task).metric,
            "round": number,
            "num_trials_at_choice": finals.num_trials_at_choice(study.name, number),
            "num_planned_trials": study.num_trials,
        }
        finalists = finals.finalists(study.name, number)
        configs = {f.number: json.dumps(dict(f.trial.config)) for f in finalists}
        rows += [
            {
                **common,
                "stage": "finalist",
                "trial": finalist.number,
                **measured,
                "repeat": repeat,
                "state": one.state,
                "failure": one.failure,
                "config": configs[finalist.number],
            }
            for finalist in finalists
            for repeat, one in enumerate(finalist.trainings)
            for measured in _by_fold(one, repeat)
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
                "config": configs[run.trial],
            }
            for run in finals.final_runs(study.name, number)
        ]
    return rows


def _by_fold(finalist: Finalist, repeat: int) -> list[dict[str, Any]]:
    """What it reached; where a repeat failed before it had a fold, one entry without any."""
    if repeat and finalist.state == "failed" and not finalist.fold_accuracies:
        return [{}]
    return [
        {
            "fold": fold,
            "fold_accuracy": accuracy,
            "epochs_run": len(finalist.fold_curves[fold]),
            "wall_seconds": finalist.fold_facts[fold].get("wall_seconds"),
        }
        for fold, accuracy in finalist.fold_accuracies.items()
    ]
