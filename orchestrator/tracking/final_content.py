"""What the runs of the last stage say: one per finalist, one per seed of a winner."""

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, stdev

from orchestrator.plan.final_protocol import times_opened
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.record.finalists import Finalist
from orchestrator.record.finals import FinalRecord, FinalRun
from orchestrator.record.record import FINISHED, TrialRecord
from orchestrator.tracking.backend import Point, RunContent
from orchestrator.tracking.content import TRIAL_TAG, millis, shown_as, trial_content
from orchestrator.tracking.notes import failure_note, finalist_note

_TOTALS = ("wall_seconds", "num_tuned_parameters", "test_accuracy", "num_test", "test_majority")
_OF_THE_SEARCH = ("failure", "epochs_run")
"""Tags of a trial that say how it did in the search."""
FINAL_PREFIX = "final."


def with_test(
    content: RunContent, plan: SweepPlan, study: StudyPlan, finals: FinalRecord
) -> RunContent:
    """The run of a study with what the newest round of the last stage that ended found on test."""
    for round in range(finals.num_rounds(study.name), 0, -1):
        runs = [r for r in finals.final_runs(study.name, round) if r.state == "complete"]
        if runs and not finals.num_left(study.name, round):
            return _tested(content, plan, study, finals, runs, round)
    return content


def _tested(
    content: RunContent,
    plan: SweepPlan,
    study: StudyPlan,
    finals: FinalRecord,
    runs: list[FinalRun],
    round: int,
) -> RunContent:
    objective = plan.objective(study.name)
    accuracies = [run.test_accuracy or 0.0 for run in runs]
    mean, seeds = fmean(accuracies), ", ".join(str(run.seed) for run in runs)
    openings = finals.num_openings(study.name, round)
    values = {f"mean_test_{objective.key}": _rounded(mean), "num_test_openings": float(openings)}
    told = f"{100 * mean:.1f} {objective.unit}"
    if len(accuracies) > 1:
        values[f"std_test_{objective.key}"] = _rounded(stdev(accuracies))
        told = f"{100 * mean:.1f} ± {100 * stdev(accuracies):.1f} {objective.unit}"
    tags = {
        "trial": str(runs[0].trial),
        "test": told,
        "seeds": seeds,
        "round": str(round),
        "openings": times_opened(openings),
    }
    ended = max(millis(run.finished) for run in runs)
    return replace(
        content,
        tags={**content.tags, **{FINAL_PREFIX + name: text for name, text in tags.items()}},
        afterwards=[Point(step=round, timestamp=ended, values=values)],
    )


def final_contents(plan: SweepPlan, study: StudyPlan, finals: FinalRecord) -> list[RunContent]:
    """The runs of the last stage of a study, so far: of all its rounds."""
    return [
        content
        for round in range(1, finals.num_rounds(study.name) + 1)
        for content in _of_round(plan, study, finals, round)
    ]


def _rounded(value: float) -> float:
    """MLflow's tables show every digit."""
    return round(value, 6)


def _of_round(
    plan: SweepPlan, study: StudyPlan, finals: FinalRecord, round: int
) -> Iterator[RunContent]:
    winner = finals.winner(study.name, round)
    finalists = {finalist.number: finalist for finalist in finals.finalists(study.name, round)}
    for finalist in finalists.values():
        is_winner = winner is not None and finalist.number == winner.number
        num_folds = finals.protocol(study.name, round).num_folds
        yield _finalist(plan, study, finalist, round, num_folds, is_winner=is_winner)
    for run in finals.final_runs(study.name, round):
        yield _final(plan, study, finalists[run.trial].trial, run, round)


def _finalist(
    plan: SweepPlan,
    study: StudyPlan,
    finalist: Finalist,
    round: int,
    num_folds: int,
    *,
    is_winner: bool,
) -> RunContent:
    fold_key = f"fold_{plan.objective(study.name).key}"
    number, name = f"finalist {finalist.number}", f"finalist #{finalist.number}"
    content = _again(plan, study, finalist.trial, finalist, round, number=number, name=name)
    return replace(
        content,
        tags={**content.tags, "winner": str(is_winner).lower()},
        points=[
            Point(step=step, timestamp=content.start + step, values={fold_key: accuracy})
            for repeat, one in enumerate(finalist.trainings)
            for fold, accuracy in one.fold_accuracies.items()
            for step in [repeat * num_folds + fold]
        ],
        leading=fold_key,
        totals={f"mean_{fold_key}": finalist.accuracy} if finalist.fold_accuracies else {},
        note=finalist_note(finalist, plan.objective(study.name).unit),
    )


def _final(
    plan: SweepPlan, study: StudyPlan, trial: TrialRecord, run: FinalRun, round: int
) -> RunContent:
    number, name = f"final {run.seed}", f"final, seed {run.seed}"
    content = _again(plan, study, trial, run, round, number=number, name=name)
    return replace(
        content,
        params={**content.params, "seed": str(run.seed)},
        points=[
            Point(
                step=int(row["epoch"]),
                timestamp=content.start + int(row["epoch"]),
                values={"scaled_lr": row["scaled_lr"], "train_loss": row["train_loss"]},
            )
            for row in run.curve
        ],
        leading="train_loss",
        totals={
            shown_as(name, plan.objective(study.name)): run.facts[name]
            for name in _TOTALS
            if name in run.facts
        },
        note=failure_note(run.failure) if run.state == "failed" else None,
    )


def _again(
    plan: SweepPlan,
    study: StudyPlan,
    trial: TrialRecord,
    run: Finalist | FinalRun,
    round: int,
    *,
    number: str,
    name: str,
) -> RunContent:
    """A trial of the search that is run once more in the last stage."""
    content = trial_content(plan, trial, ())
    stage = number.partition(" ")[0]
    if round > 1:
        number, name = f"{number}, round {round}", f"{name}, round {round}"
    kept = {name: text for name, text in content.tags.items() if name not in _OF_THE_SEARCH}
    return replace(
        content,
        key=(study.name, number),
        name=f"{study.task} · {study.space} · {name}",
        start=millis(run.started),
        end=millis(run.finished) if run.state in FINISHED else None,
        state=run.state,
        tags={
            **kept,
            TRIAL_TAG: number,
            "kind": stage,
            "stage": stage,
            "round": str(round),
            "state": run.state,
            "trial": str(trial.number),
            **({"failure": run.failure} if run.failure else {}),
        },
    )
