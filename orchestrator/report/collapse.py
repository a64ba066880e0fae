"""Studies whose trainings fall apart: a rate that suits one backbone can ruin another.

Large rates of SGD end single runs of VPT at chance (public results of Jia et al. 2022, arXiv
2203.12119, hold such seeds); where most trials end so, the best of the study says nothing of the
method.
"""

from collections.abc import Sequence

from orchestrator.record.record import TrialRecord
from orchestrator.support.counted import counted
from orchestrator.support.uncertainty import standard_error
from orchestrator.training.objective import TOP1, Objective

MIN_TRIALS = 4
"""With fewer trials than this a study is not judged."""
SHARE = 0.5
"""From this share of the trials on, it is worth a sentence."""


def collapse_sentence(
    trials: Sequence[TrialRecord],
    *,
    num_classes: int,
    num_val: float,
    objective: Objective = TOP1,
) -> str | None:
    """What a reader must know of a study most of whose trials guess; None: it is not so.

    `num_val` are the images on which an accuracy is as sure as the score.
    """
    ended = [t for t in trials if t.state in ("complete", "pruned") and t.val_accuracy is not None]
    guess = objective.guessing_score(num_classes)
    highest_guess = guess + 2 * standard_error(guess, num_val)
    guessing = [t for t in ended if (t.val_accuracy or 0.0) <= highest_guess]
    if len(ended) < MIN_TRIALS or len(guessing) < SHARE * len(ended):
        return None
    sentence = (
        f"{len(guessing)} of {counted(len(ended), 'trial')} ended no better than guessing "
        f"({100 * guess:.3g} % for {num_classes} classes)"
    )
    diverged = sum(map(_diverged, guessing))
    if diverged:
        sentence += (
            f", {diverged} of them with a training loss above that of their first epoch: "
            "smaller learning rates, or another optimizer, may suit this backbone"
        )
    return sentence + "."


def _diverged(trial: TrialRecord) -> bool:
    losses = [row["train_loss"] for row in trial.curve if "train_loss" in row]
    # Not "greater": a loss that is not a number is no better.
    return len(losses) > 1 and not losses[-1] <= losses[0]
