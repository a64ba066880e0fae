"""Studies whose trainings fall apart: a rate that suits one backbone can ruin another.

Large rates of SGD end single runs of VPT at chance (public results of Jia et al. 2022, arXiv
2203.12119, hold such seeds); where most trials end so, the best of the study says nothing of the
method.
"""

import math
from collections.abc import Sequence

from orchestrator.record.record import TrialRecord

MIN_TRIALS = 4
"""Of fewer nothing is said."""
SHARE = 0.5
"""From this share of the trials on, it is worth a sentence."""


def collapse_sentence(
    trials: Sequence[TrialRecord], *, num_classes: int, num_val: int
) -> str | None:
    """What a reader must know of a study most of whose trials guess; None: it is not so."""
    ended = [t for t in trials if t.state in ("complete", "pruned") and t.val_accuracy is not None]
    guess = 1 / num_classes
    highest_guess = guess + 2 * math.sqrt(guess * (1 - guess) / num_val)
    guessing = [t for t in ended if (t.val_accuracy or 0.0) <= highest_guess]
    if len(ended) < MIN_TRIALS or len(guessing) < SHARE * len(ended):
        return None
    sentence = (
        f"{len(guessing)} of {len(ended)} trials ended no better than guessing "
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
