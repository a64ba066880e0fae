"""What the MLflow runs of the last stage say: one per finalist, one per seed of a winner."""

from dataclasses import replace

from orchestrator.final_record import Finalist, FinalRecord, FinalRun
from orchestrator.mlflow_runs import STATUS, Point, RunContent, millis, trial_content
from orchestrator.plan import StudyPlan, SweepPlan
from orchestrator.record import FINISHED

_TOTALS = ("wall_seconds", "num_tuned_parameters", "test_accuracy", "num_test")


def final_contents(plan: SweepPlan, study: StudyPlan, finals: FinalRecord) -> list[RunContent]:
    """The runs of the last stage of a study, so far."""
    winner = finals.winner(study.name)
    contents = [
        _finalist(
            plan, study, finalist, is_winner=winner is not None and finalist.number == winner.number
        )
        for finalist in finals.finalists(study.name)
    ]
    return contents + [_final(plan, study, finals, run) for run in finals.final_runs(study.name)]


def _finalist(
    plan: SweepPlan, study: StudyPlan, finalist: Finalist, *, is_winner: bool
) -> RunContent:
    as_trial = trial_content(plan, finalist.trial, ())
    ended = finalist.state in FINISHED
    start = millis(finalist.started)
    return replace(
        as_trial,
        key=(study.name, f"finalist {finalist.number}"),
        name=f"{study.task} · {study.space} · finalist #{finalist.number}",
        start=start,
        end=millis(finalist.finished) if ended else None,
        status=STATUS[finalist.state],
        tags={
            **_tags(as_trial, f"finalist {finalist.number}", "finalist", finalist.state),
            "trial": str(finalist.number),
            "winner": str(is_winner).lower(),
            **({"failure": finalist.failure} if finalist.failure else {}),
        },
        points=[
            Point(step=fold, timestamp=start + fold, values={"fold_accuracy": accuracy})
            for fold, accuracy in finalist.fold_accuracies.items()
        ],
        leading="fold_accuracy",
        totals={"mean_fold_accuracy": finalist.accuracy} if finalist.fold_accuracies else {},
    )


def _final(plan: SweepPlan, study: StudyPlan, finals: FinalRecord, run: FinalRun) -> RunContent:
    as_trial = trial_content(plan, finals.finalist(study.name, run.trial).trial, ())
    ended = run.state in FINISHED
    start = millis(run.started)
    return replace(
        as_trial,
        key=(study.name, f"final {run.seed}"),
        name=f"{study.task} · {study.space} · final, seed {run.seed}",
        start=start,
        end=millis(run.finished) if ended else None,
        status=STATUS[run.state],
        tags={
            **_tags(as_trial, f"final {run.seed}", "final", run.state),
            "trial": str(run.trial),
            **({"failure": run.failure} if run.failure else {}),
        },
        params={**as_trial.params, "seed": str(run.seed)},
        points=[
            Point(
                step=int(row["epoch"]),
                timestamp=start + int(row["epoch"]),
                values={"lr": row["lr"], "train_loss": row["train_loss"]},
            )
            for row in run.curve
        ],
        leading="train_loss",
        totals={name: run.facts[name] for name in _TOTALS if name in run.facts},
    )


def _tags(as_trial: RunContent, run: str, stage: str, state: str) -> dict[str, str]:
    dropped = ("failure", "epochs_run")
    kept = {name: value for name, value in as_trial.tags.items() if name not in dropped}
    return {**kept, "orchestrator.trial": run, "kind": stage, "stage": stage, "state": state}
