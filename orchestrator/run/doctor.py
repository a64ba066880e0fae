"""The invariants of a sweep folder: what must hold whatever happened to its processes.

Storage, results table, bundles and tracker must tell one story, and nothing of a dead process may
stay behind. The storage is the truth: what else differs from it is made again from it.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.bundle.bundle import BUNDLE_SUFFIXES, read_bundle
from orchestrator.bundle.export import BEST_FOLDER, BY_METHOD, TRIALS_FOLDER, export_best
from orchestrator.bundle.fronts import front_texts
from orchestrator.data.suites import Suite
from orchestrator.plan.folders import FRONTS
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.record.database import STORAGE_FILE, sqlite_uri
from orchestrator.record.final_outcome import outcomes
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import FINISHED, FROZEN_STATE, Record, TrialRecord, best_of
from orchestrator.report.final import FINAL_FILE, read_final_results
from orchestrator.report.results import RESULTS_FILE, read_results, results_table, write_results
from orchestrator.run.final_files import (
    FINAL_FOLDER,
    bundles_wanted,
    is_bundle_of,
    with_older_bundle,
    write_final,
)
from orchestrator.support.checksum import sha256_of
from orchestrator.support.counted import counted
from orchestrator.support.whole_file import UNFINISHED
from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.final_content import final_contents
from orchestrator.tracking.reconcile import reconcile, reconcile_final, restore_models, tracked_runs
from orchestrator.tracking.study_files import bundle_digest
from orchestrator.tracking.trackers import tracker_at
from orchestrator.training.objective import is_score


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An invariant that does not hold."""

    about: str
    """storage, table, bundles, final, files, trials, or the name of a tracker (mlflow)."""
    text: str
    remedy: str
    """`repair`, `resume`, or what a person must do."""


@dataclass(kw_only=True)
class Examination:
    """What was looked at, and what was found."""

    findings: list[Finding] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    """How many invariants were checked, by what they are about."""
    notes: list[str] = field(default_factory=list)
    """What a person did and is left so."""


def examine(
    plan: SweepPlan,
    record: Record,
    folder: Path,
    tracking_uri: str,
    finals: FinalRecord | None = None,
    databases: Path | None = None,
) -> Examination:
    """Check every invariant of a sweep that nobody is running; `finals` is its last stage.

    `databases` is where copies of the databases lie, if the folder's own are not to be opened.
    """
    examination = Examination()
    databases, tracker = databases or folder, tracker_at(tracking_uri)
    parts: list[tuple[str, Callable[[], Iterator[tuple[bool, str, str]]]]] = [
        ("storage", lambda: _storage(plan, record, databases)),
        ("trials", lambda: _trials(plan, record)),
        ("table", lambda: _table(plan, record, folder)),
        ("bundles", lambda: _bundles(plan, record, folder)),
        ("final", lambda: _final(plan, record, folder, finals)),
        ("files", lambda: _files(record, folder)),
        (
            tracker.name.lower(),
            lambda: iter(tracker.examine_folder(tracking_uri, folder, databases)),
        ),
        (
            tracker.name.lower(),
            lambda: _tracking(plan, record, folder, tracking_uri, finals, examination.notes),
        ),
    ]
    if not folder.is_dir():
        is_own = tracker.in_copy(tracking_uri, folder, databases) != tracking_uri
        elsewhere = ["storage", "trials", *([] if is_own else [tracker.name.lower()])]
        parts = [(about, checks) for about, checks in parts if about in elsewhere]
        examination.notes.append(
            f"{folder}: is not here, so that only {', '.join(elsewhere)} could be looked at; "
            f"`orchestrator resume {folder}` makes its files again from the storage"
        )
    for about, checks in parts:
        for holds, text, remedy in checks():
            examination.checked[about] += 1
            if not holds:
                examination.findings.append(Finding(about=about, text=text, remedy=remedy))
    return examination


def repair(
    plan: SweepPlan,
    record: Record,
    suite: Suite | None,
    folder: Path,
    tracking_uri: str,
    finals: FinalRecord | None = None,
) -> list[str]:
    """Make again what is made from the storage, and remove what the dead left; what was done.

    Trials are left alone: to go on with them is `resume`'s work. Without the suite, whose images
    may be on another machine, the bundles stay as they are.
    """
    done = [f"removed {path}" for path in _left_over(record, folder)]
    for path in _left_over(record, folder):
        path.unlink(missing_ok=True)
    write_results(plan, record, folder / RESULTS_FILE)
    done.append(f"wrote {folder / RESULTS_FILE}")
    if suite is None:
        files = {study.name: _bundle_files(folder, study) for study in plan.studies}
    else:
        exported = export_best(
            plan, record, suite, trials_folder=folder / TRIALS_FOLDER, folder=folder / BEST_FOLDER
        )
        files = exported.files
        done.append(
            f"wrote bundles of {counted(len(exported.best), 'task')} to {folder / BEST_FOLDER}"
        )
        if finals is not None:
            write_final(plan, lambda: suite, finals, outcomes(plan, record, finals), folder)
            done.append(f"wrote {folder / FINAL_FILE} and the bundles in {folder / FINAL_FOLDER}")
    tracker = tracker_at(tracking_uri)
    try:
        if changed := tracker.open(plan, tracking_uri).settle():
            done.append(f"{tracker.name}: {changed}")
        filled = reconcile(
            plan,
            record,
            tracking_uri,
            folder=folder,
            best_files=lambda study: files.get(study, []),
        )
        done.append(
            f"{tracker.name}: {counted(filled.created, 'run')} written, "
            f"{filled.updated} brought up to date, {filled.doubled} doubles removed"
        )
        if filled.deleted:
            done.append(
                f"{tracker.name}: {counted(filled.deleted, 'run stays', 'runs stay')} "
                "deleted, as a person left it"
            )
        if finals is not None:
            reconcile_final(plan, record, finals, tracking_uri)
        if restored := restore_models(plan, tracking_uri, _bundles_of_tasks(plan, folder)):
            done.append(f"{tracker.name}: wrote the files of {restored} models")
    except TrackingError as error:
        done.append(str(error))
    return done


def _bundle_files(folder: Path, study: StudyPlan) -> list[Path]:
    """The files of a study's best trial, those that are there."""
    description = folder / BEST_FOLDER / BY_METHOD / study.space / f"{study.task}.yaml"
    files = [description.with_suffix(suffix) for suffix in BUNDLE_SUFFIXES]
    return [file for file in files if file.is_file()]


def _bundles_of_tasks(plan: SweepPlan, folder: Path) -> list[Path]:
    """Those that are registered as models, as far as they are there."""
    found = [
        folder / place / f"{task.name}.yaml"
        for place in (BEST_FOLDER, FINAL_FOLDER)
        for task in plan.tasks
    ]
    return [path for path in found if path.is_file() and path.with_suffix(".safetensors").is_file()]


def _storage(plan: SweepPlan, record: Record, folder: Path) -> Iterator[tuple[bool, str, str]]:
    database = folder / STORAGE_FILE
    if database.exists():
        with closing(sqlite3.connect(sqlite_uri(database, "ro"), uri=True)) as connection:
            (result,) = connection.execute("PRAGMA integrity_check").fetchone()
        yield result == "ok", f"{database}: {result}", "restore it from a copy"
    for study in plan.studies:
        numbers = [trial.number for trial in record.trials(study.name)]
        yield (
            numbers == list(range(len(numbers))) and len(numbers) <= study.num_trials,
            f"{study.name}: {counted(study.num_trials, 'trial is', 'trials are')} planned, "
            f"numbers {numbers} are there",
            "start a new sweep",
        )


def _trials(plan: SweepPlan, record: Record) -> Iterator[tuple[bool, str, str]]:
    for study in plan.studies:
        trials = record.trials(study.name)
        frozen = sum(trial.state == FROZEN_STATE for trial in trials)
        interrupted = [t.number for t in trials if t.state not in (*FINISHED, FROZEN_STATE)]
        left = study.num_trials - len(trials)
        yield (
            not interrupted and not left and not frozen,
            f"{study.name}: {counted(len(interrupted), 'trial was', 'trials were')} interrupted, "
            f"{left} not begun{f', {frozen} frozen' if frozen else ''}",
            "resume",
        )
        for trial in trials:
            if trial.state in FINISHED:
                problem = _inconsistent(trial)
                yield not problem, f"{study.name} #{trial.number}: {problem}", "start a new sweep"


def _inconsistent(trial: TrialRecord) -> str | None:
    epochs = [int(row["epoch"]) for row in trial.curve]
    if epochs != list(range(1, len(epochs) + 1)):
        return f"its epochs are {epochs}"
    if trial.state == "failed":
        return None if trial.failure else "it failed without a reason"
    accuracy = trial.val_accuracy
    if accuracy is None or not is_score(accuracy):
        return f"it is {trial.state} with val_accuracy {accuracy}"
    if not trial.curve or trial.curve[-1]["val_accuracy"] != accuracy:
        return "its value is not that of its last epoch"
    return None


def _table(plan: SweepPlan, record: Record, folder: Path) -> Iterator[tuple[bool, str, str]]:
    path = folder / RESULTS_FILE
    expected = results_table(plan, record.all_trials())
    try:
        same = read_results(path).equals(expected)
        text = f"{path}: is not what the storage says"
    except ValueError as error:
        same, text = False, str(error)
    yield same, text, "repair"


def _bundles(plan: SweepPlan, record: Record, folder: Path) -> Iterator[tuple[bool, str, str]]:
    best = {study.name: record.best(study.name) for study in plan.studies}
    for study in plan.studies:
        winner = best[study.name]
        if winner is not None:
            place = folder / BEST_FOLDER / BY_METHOD / study.space
            yield from _bundle(place / f"{study.task}.yaml", winner, folder)
    for task in plan.tasks:
        of_task = [best[study.name] for study in plan.studies if study.task == task.name]
        winner = best_of([trial for trial in of_task if trial is not None])
        if winner is not None:
            yield from _bundle(folder / BEST_FOLDER / f"{task.name}.yaml", winner, folder)
    for name, text in front_texts(plan, record).items():
        path = folder / BEST_FOLDER / FRONTS / f"{name}.yaml"
        same = path.is_file() and path.read_bytes() == text.encode()
        yield same, f"{path}: is not the Pareto front of {name}", "repair"


def _bundle(path: Path, winner: TrialRecord, folder: Path) -> Iterator[tuple[bool, str, str]]:
    tensors = folder / TRIALS_FOLDER / winner.study / f"{winner.number}.safetensors"
    yield tensors.is_file(), f"{tensors}: the weights of the best trial are gone", "restore it"
    text = f"{path}: is not the best trial, {winner.study} #{winner.number}"
    try:
        bundle = read_bundle(path)
        weights = path.with_suffix(".safetensors")
        same = (
            (bundle.trial.study, bundle.trial.number) == (winner.study, winner.number)
            and bundle.val_accuracy == winner.val_accuracy
            and dict(bundle.trial.config) == dict(winner.config)
            and sha256_of(weights) == bundle.tensors_sha256
            and (not tensors.is_file() or sha256_of(tensors) == bundle.tensors_sha256)
        )
    except (ValueError, OSError) as error:
        same, text = False, str(error)
    yield same, text, "repair"


def _final(
    plan: SweepPlan, record: Record, folder: Path, finals: FinalRecord | None
) -> Iterator[tuple[bool, str, str]]:
    """A bundle with another seed than ours, which an older version chose, is as it should be."""
    if finals is None:
        return
    found = [with_older_bundle(outcome, folder) for outcome in outcomes(plan, record, finals)]
    path = folder / FINAL_FILE
    text = f"{path}: is not what the storage says"
    try:
        told = {f"{one.task}.{one.space}": one for one in read_final_results(folder)}
        same = set(told) == {outcome.study for outcome in found} and all(
            (told[one.study].round, told[one.study].winner, dict(told[one.study].test_accuracies))
            == (one.round, one.winner, dict(one.test_accuracies))
            for one in found
        )
    except ValueError as error:
        same, text = False, str(error)
    yield same, text, "repair"
    for outcome, description in bundles_wanted(plan, found, folder):
        yield (
            is_bundle_of(description, outcome),
            f"{description}: is not {outcome.study} #{outcome.winner} with seed "
            f"{outcome.bundle_seed} as it was tested in round {outcome.round}",
            "repair",
        )


def _files(record: Record, folder: Path) -> Iterator[tuple[bool, str, str]]:
    left = _left_over(record, folder)
    yield not left, f"left by a process that died: {', '.join(map(str, left[:3]))}", "repair"


def _left_over(record: Record, folder: Path) -> Sequence[Path]:
    """Files half written, and checkpoints of trials that have ended."""
    kept = {
        (trial.study, str(trial.number))
        for trial in record.all_trials()
        if trial.state in ("running", FROZEN_STATE)
    }
    found = [
        path
        for place in (folder, *(folder / n for n in (TRIALS_FOLDER, BEST_FOLDER, FINAL_FOLDER)))
        for path in (place.glob(UNFINISHED) if place == folder else place.rglob(UNFINISHED))
    ]
    found += [
        path
        for path in (folder / TRIALS_FOLDER).glob("*/*.checkpoint")
        if (path.parent.name, path.stem) not in kept
    ]
    return sorted(path for path in found if path.is_file())


def _tracking(
    plan: SweepPlan,
    record: Record,
    folder: Path,
    uri: str,
    finals: FinalRecord | None,
    notes: list[str],
) -> Iterator[tuple[bool, str, str]]:
    name = tracker_at(uri).name
    try:
        runs = tracked_runs(plan, uri)
    except TrackingError as error:
        yield False, str(error), "start it, then repair"
        return
    shown: dict[tuple[str, str], list[tuple[str, float | None]]] = {}
    there = {(run.study, run.number) for run in runs if not run.deleted}
    deleted = {(run.study, run.number) for run in runs} - there
    if deleted:
        notes.append(
            f"{name.lower()}: {counted(len(deleted), 'run')} deleted there by a person and left "
            "so; its pages can restore them"
        )
    for run in runs:
        if run.deleted:
            continue
        accuracy = run.val_accuracy if run.test_accuracy is None else run.test_accuracy
        shown.setdefault((run.study, run.number), []).append((run.state, accuracy))
    expected = {
        (trial.study, str(trial.number)): (trial.state, trial.val_accuracy)
        for trial in record.all_trials()
    }
    if finals is not None:
        for content in (c for study in plan.studies for c in final_contents(plan, study, finals)):
            test_key = f"test_{plan.objective(content.key[0]).key}"
            expected[content.key] = (content.tags["state"], content.totals.get(test_key))
    for (study, number), (state, accuracy) in expected.items():
        found = shown.pop((study, number), [])
        yield (
            (study, number) in deleted
            or found == [(state, accuracy)]
            or (state not in FINISHED and len(found) < 2),
            f"{name} shows {study} #{number} as {found}, the storage {(state, accuracy)}",
            "repair",
        )
    for study in plan.studies:
        parents = shown.pop((study.name, ""), [])
        yield (
            len(parents) == 1 or (study.name, "") in deleted,
            f"{name} has {counted(len(parents), 'run')} of {study.name}",
            "repair",
        )
    bundles = {bundle_digest(bundle) for bundle in _bundles_of_tasks(plan, folder)}
    for run in runs:
        lost = [file.name for file in run.missing if file.bundle and file.bundle not in bundles]
        gone = [file.name for file in run.missing if file.name not in lost]
        yield not gone, f"{name} lacks {', '.join(gone)} of {run.study}", "repair"
        yield (
            not lost,
            f"{name} lacks {', '.join(lost)} of {run.study}, and the bundle is gone too",
            f"delete that version of the model in {name}",
        )
    yield not shown, f"{name} has runs of no trial: {sorted(shown)}", f"delete them in {name}"
