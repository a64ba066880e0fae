"""Why the pruner stopped a trial: what it was compared with, as the storage was then.

Afterwards it cannot be told: the others have gone on meanwhile, and new ones came.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.pruners import Pruner


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A trial beside the others of its study, at the moment in which it was stopped."""

    score: float
    """Its own, in [0, 1]: of this epoch, or its best so far where the pruner takes that."""
    num_others: int
    """Trials that it was compared with."""
    num_better: int
    """How many of these had a higher score."""
    best: float | None = None
    """The highest score of the others; None: there was no other."""
    median: float | None = None
    """Theirs, without the trial's own."""
    needed: float | None = None
    """The least score with which it had gone on; None: the rule has no such number."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """How a trial was pruned."""

    epoch: int
    """The epoch after which it was stopped."""
    against: Comparison | None
    """None: an older version stopped it, which did not record it."""


def compare(
    pruner: Pruner,
    trial: FrozenTrial,
    trials: Sequence[FrozenTrial],
    epoch: int,
    rungs: Mapping[str, Any],
) -> Comparison:
    """What the pruner saw when it stopped `trial` after `epoch` beside these `trials`.

    `rungs` are what the pruner wrote down of the trial: who has not passed its last rung was not
    judged there, though it may have a score of that epoch.
    """
    rung = list(rungs)[-1] if rungs else None
    scores = [
        other.intermediate_values.get(epoch) if rung is None else other.system_attrs.get(rung)
        for other in trials
        if other.number != trial.number
        and (not pruner.against_complete or other.state is TrialState.COMPLETE)
    ]
    others = [score for score in scores if score is not None and math.isfinite(score)]
    told = trial.intermediate_values
    own = max(told.values()) if pruner.against_complete else told[epoch]
    return Comparison(
        score=own,
        num_others=len(others),
        num_better=sum(score > own for score in others),
        best=max(others, default=None),
        median=median(others) if others else None,
        needed=pruner.needed(own, others),
    )
