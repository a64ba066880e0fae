"""What the note of a trial's run says: why it ended before its last epoch."""

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.pruners import Pruner
from orchestrator.record.finalists import CLEARLY_WORSE, Finalist
from orchestrator.record.record import TrialRecord
from orchestrator.record.stopped import Comparison
from orchestrator.support.counted import counted
from orchestrator.support.foreign_text import markdown


def trial_note(plan: SweepPlan, trial: TrialRecord) -> str | None:
    """In Markdown; None of a trial that runs, or that ran to its end."""
    if trial.state == "failed":
        return failure_note(trial.failure)
    if trial.state != "pruned":
        return None
    unit = plan.objective(trial.study).unit
    epoch = trial.stop.epoch if trial.stop else len(trial.curve)
    parts = [
        f"**Pruned, which is no failure:** stopped after epoch {epoch} by the pruner "
        f"`{plan.pruner.name}`."
    ]
    against = trial.stop.against if trial.stop else None
    if against is None:
        score = trial.val_accuracy or 0.0
        parts.append(
            f"It had {100 * score:.1f} {unit} on validation; what it was compared with is not "
            "recorded."
        )
    else:
        parts.append(_against(against, unit, pruner=plan.pruner))
    return f"{' '.join(parts)}\n\nThe rule: {plan.pruner.rule}"


def failure_note(reason: str | None) -> str:
    return f"**Failed:** {markdown(reason or 'for a reason that is not recorded')}"


def finalist_note(finalist: Finalist, unit: str) -> str | None:
    """Of a finalist in the last stage; None where it ended well, or runs."""
    if finalist.state == "failed":
        return failure_note(finalist.failure)
    if finalist.state != "pruned":
        return None
    return (
        f"**Pruned, which is no failure:** stopped after "
        f"{counted(len(finalist.fold_accuracies), 'fold')} with a mean of "
        f"{100 * finalist.accuracy:.1f} {unit}: clearly worse than the best finalist on the same "
        f"folds (Wilcoxon's signed-rank test, p < {CLEARLY_WORSE})."
    )


def _against(found: Comparison, unit: str, *, pruner: Pruner) -> str:
    complete = pruner.against_complete
    which = "best so far" if complete else "at this epoch"
    told = f"Its score on validation, {which}, was {100 * found.score:.1f} {unit}"
    if not pruner.trials_before:
        return f"{told}."
    if not found.num_others:
        return f"{told}, and there was no other trial to compare with."
    others = counted(found.num_others, "complete trial" if complete else "other trial")
    then = "at this epoch" if complete else "that had come this far"
    assert found.best is not None and found.median is not None
    told += (
        f". Of the {others} {then}, {found.num_better} had more; their best "
        f"was {100 * found.best:.1f}, their median {100 * found.median:.1f}."
    )
    if found.needed is not None:
        told += f" To go on it needed {100 * found.needed:.1f}."
    return told
