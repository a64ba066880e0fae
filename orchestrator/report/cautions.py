"""What a reader must know before the best of a study is taken for a result, in a sentence each."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from orchestrator.plan.plan import TaskPlan
from orchestrator.record.record import TrialRecord, best_of
from orchestrator.report.collapse import collapse_sentence
from orchestrator.support.collapsed import collapsed_text
from orchestrator.support.uncertainty import interval, interval_over_seeds
from orchestrator.training.objective import DEFAULT_METRIC, TOP1, Objective, objective_named

SUSPECT_LOSS = 10.0
"""A final training loss of so many times that of guessing, and above that of the first epoch, is
told: the training went up, whatever the accuracy says."""
ABSURD_LOSS = 100.0
"""From so many times on it is told whatever the first epoch had. A new head on large features
begins at up to about thirty times, so that a slow or a short training ends below."""


class Tested(Protocol):
    """A winner on the test images, from the storage or from `final.json`."""

    @property
    def metric(self) -> str: ...
    @property
    def test_accuracies(self) -> Mapping[int, float]: ...
    @property
    def num_test(self) -> int | None: ...
    @property
    def test_majority(self) -> int | None: ...
    @property
    def test_majority_share(self) -> float | None: ...
    @property
    def test_images(self) -> float | None: ...


def cautions(task: TaskPlan, trials: Sequence[TrialRecord]) -> list[str]:
    """What to be careful about in a study on `task`; empty where all is in order."""
    best = best_of(trials)
    found = [
        collapse_sentence(
            trials,
            num_classes=task.num_classes,
            num_val=task.val_images,
            objective=task.objective,
        ),
        best and majority_sentence(best, task),
        best and loss_sentence(best, task.num_classes, task.objective),
    ]
    return [sentence for sentence in found if sentence]


def majority_sentence(best: TrialRecord, task: TaskPlan) -> str | None:
    """A sentence about a best trial that is not shown to be better than always answering the same
    class.

    That is, the lower end of the 95 % interval of its score does not exceed the score of that
    answer; what this one is, is known, since it is that of the same images.
    """
    accuracy, share = best.val_accuracy, task.val_majority_share
    if accuracy is None or share is None:
        return None
    ends, unit = interval(accuracy, best.val_images(task)), task.objective.unit
    found = f"the best trial, #{best.number} with {100 * accuracy:.1f}"
    if task.metric != DEFAULT_METRIC:
        return _against_majority(ends, share, unit, "", f"{found} {unit}")
    images = f" ({task.val_majority} of {task.num_val} validation images)"
    return _against_majority(ends, share, unit, images, f"{found} % of them")


def tested_sentence(final: Tested) -> str | None:
    """Likewise of the mean test score over seeds, with its interval for seeds and images."""
    scores, share, images = (
        list(final.test_accuracies.values()),
        final.test_majority_share,
        final.test_images,
    )
    if not scores or images is None or share is None:
        return None
    ends, unit = interval_over_seeds(scores, images), objective_named(final.metric).unit
    found = f"the mean over seeds, {100 * fmean(scores):.1f}"
    if final.metric != DEFAULT_METRIC:
        return _against_majority(ends, share, unit, "", f"{found} {unit}")
    told = f" ({final.test_majority} of {final.num_test} test images)"
    return _against_majority(ends, share, unit, told, f"{found} % of them")


def collapsed_sentence(final: Tested) -> str | None:
    """A sentence about a winner of which single seeds fell apart."""
    fell = collapsed_text(final.test_accuracies, "seeds")
    if fell is None:
        return None
    return (
        f"the winner {fell}: whoever trains it once may get such a run; a smaller learning rate, "
        "or another of the finalists, may be safer."
    )


def _against_majority(
    ends: tuple[float, float], share: float, unit: str, images: str, found: str
) -> str | None:
    low, high = ends
    if low > share:
        return None
    told = "is worse than" if high < share else "is not told apart from"
    return (
        f"{100 * share:.1f} {unit} is what always answering the most frequent class gives{images}; "
        f"{found}, {told} that."
    )


def loss_sentence(best: TrialRecord, num_classes: int, objective: Objective = TOP1) -> str | None:
    """A sentence about a best trial whose training loss is far above that of guessing."""
    losses = [row["train_loss"] for row in best.curve if "train_loss" in row]
    guess = objective.guessing_loss(num_classes)
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
