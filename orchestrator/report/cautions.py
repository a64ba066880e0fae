"""What a reader must know before the best of a study is taken for a result, in a sentence each."""

import math
from collections.abc import Sequence
from statistics import fmean

from orchestrator.plan.plan import TaskPlan
from orchestrator.record.record import TrialRecord, best_of
from orchestrator.report.collapse import collapse_sentence
from orchestrator.support.uncertainty import interval, interval_over_seeds

SUSPECT_LOSS = 10.0
"""A final training loss of so many times that of guessing, and above that of the first epoch, is
told: the training went up, whatever the accuracy says."""
ABSURD_LOSS = 100.0
"""From so many times on it is told whatever the first epoch had. A new head on large features
begins at up to about thirty times, so that a slow or a short training ends below."""


def cautions(task: TaskPlan, trials: Sequence[TrialRecord]) -> list[str]:
    """Of a study on `task`; none where all is in order."""
    best = best_of(trials)
    found = [
        collapse_sentence(trials, num_classes=task.num_classes, num_val=task.num_val),
        best and majority_sentence(best, task),
        best and loss_sentence(best, task.num_classes),
    ]
    return [sentence for sentence in found if sentence]


def majority_sentence(best: TrialRecord, task: TaskPlan) -> str | None:
    """Of a best trial that is not shown to be better than always answering the same class.

    That is, the lower end of the 95 % interval of its accuracy does not exceed the share of the
    most frequent class; what this share is, is known, since it is that of the same images.
    """
    accuracy, share = best.val_accuracy, task.val_majority_share
    if accuracy is None or share is None:
        return None
    return _against_majority(
        interval(accuracy, task.num_val),
        share,
        f"{task.val_majority} of {task.num_val} validation images",
        f"the best trial, #{best.number} with {100 * accuracy:.1f} % of them",
    )


def tested_sentence(
    accuracies: Sequence[float], num_test: int | None, majority: int | None
) -> str | None:
    """Likewise of the mean test accuracy over seeds, with its interval for seeds and images."""
    if not accuracies or num_test is None or majority is None:
        return None
    return _against_majority(
        interval_over_seeds(accuracies, num_test),
        majority / num_test,
        f"{majority} of {num_test} test images",
        f"the mean over seeds, {100 * fmean(accuracies):.1f} % of them",
    )


def _against_majority(
    ends: tuple[float, float], share: float, images: str, found: str
) -> str | None:
    low, high = ends
    if low > share:
        return None
    told = "is worse than" if high < share else "is not told apart from"
    return (
        f"{100 * share:.1f} % is what always answering the most frequent class gives ({images}); "
        f"{found}, {told} that."
    )


def loss_sentence(best: TrialRecord, num_classes: int) -> str | None:
    """Of a best trial whose training loss is far above that of guessing, ln(num_classes)."""
    losses = [row["train_loss"] for row in best.curve if "train_loss" in row]
    guess = math.log(max(2, num_classes))
    if not losses:
        return None
    first, last = losses[0], losses[-1]
    went_up = len(losses) > 1 and last > first and last > SUSPECT_LOSS * guess
    if not went_up and last <= ABSURD_LOSS * guess:
        return None
    return (
        f"Trial #{best.number}, the best, ended with a training loss of {last:,.0f}, where "
        f"guessing has {guess:.1f}: it diverged, and its probabilities mean nothing even where its "
        "answers are right; smaller learning rates are worth a search."
    )
