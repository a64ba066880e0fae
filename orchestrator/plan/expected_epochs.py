"""How far trials get with a pruner: the pruner itself, asked about curves that were recorded."""

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState

from orchestrator.plan.pruners import Pruner

Curve = Sequence[float]
"""Scores at equal distances, from the first epoch of a trial to its last."""

LONGEST_STUDY = 60
"""Trials that are replayed of a study; of a longer one the later trials end as these do."""

DECISIONS = 12
"""So many about a trial are replayed of a pruner that may decide after every epoch."""


def epochs_of_trials(
    pruner: Pruner,
    curves: Sequence[Curve],
    *,
    epochs: int,
    num_trials: int,
    side_by_side: int,
    eval_every: int,
    seed: int,
) -> list[int]:
    """The epochs that each trial of one study runs, if its trials are of these curves by chance.

    So many run at the same time. Without curves the order of trials is that of chance and never
    changes.
    """
    ends = [epochs] * min(num_trials, LONGEST_STUDY)
    asked = _decided_at(pruner, epochs, eval_every)
    if not asked:
        return ends
    chance = random.Random(seed)  # noqa: S311  # of no secret
    study = optuna.create_study(
        direction="maximize",
        pruner=pruner.make(),
        sampler=optuna.samplers.RandomSampler(seed=seed),
        study_name="replay",
    )
    running: list[tuple[float, int, int, optuna.Trial, Curve]] = []
    """By the time of the next decision, in epochs: the place in the study, the epoch, the trial."""
    rungs = _Rungs(pruner, side_by_side)
    for place in range(len(ends)):
        curve = chance.choice(curves) if curves else (chance.random(),)
        begins = 0.0
        while len(running) == side_by_side:
            begins = _go_on(study, running, asked, epochs, ends, rungs)
        heapq.heappush(running, (begins + asked[0], place, asked[0], study.ask(), curve))
    while running:
        _go_on(study, running, asked, epochs, ends, rungs)
    return ends


class _Rungs:
    """Trials that wait at a rung, where the pruner freezes them."""

    def __init__(self, pruner: Pruner, side_by_side: int) -> None:
        self.pruner, self.side_by_side = pruner, side_by_side
        self._scores: dict[int, list[float]] = defaultdict(list)
        self._waiting: dict[int, list[tuple[float, int, optuna.Trial, Curve]]] = defaultdict(list)
        """By epoch: score, place in the study, trial."""

    def came(self, epoch: int, score: float) -> None:
        self._scores[epoch].append(score)

    def wait(self, epoch: int, score: float, place: int, trial: optuna.Trial, curve: Curve) -> None:
        self._waiting[epoch].append((score, -place, trial, curve))

    def first_to_go_on(self) -> tuple[int, int, optuna.Trial, Curve] | None:
        """As the record has it: the latest rung, there the best; with epoch and place."""
        for epoch in sorted(self._waiting, reverse=True):
            best = max(self._waiting[epoch], key=lambda one: one[:2], default=None)
            if best is None:
                continue
            others = list(self._scores[epoch])
            others.remove(best[0])
            if best[0] >= (self.pruner.needed(best[0], others) or 0.0):
                self._waiting[epoch].remove(best)
                return epoch, -best[1], best[2], best[3]
        return None


def _go_on(
    study: optuna.Study,
    running: list[tuple[float, int, int, optuna.Trial, Curve]],
    asked: Sequence[int],
    epochs: int,
    ends: list[int],
    rungs: _Rungs,
) -> float:
    """Decide about the trial whose turn it is; the time when it does."""
    now = _decide(study, running, asked, epochs, ends, rungs)
    while len(running) < rungs.side_by_side and (first := rungs.first_to_go_on()) is not None:
        # It takes a slot before a new one does.
        epoch, place, trial, curve = first
        following = next((later for later in asked if later > epoch), epochs)
        heapq.heappush(running, (now + following - epoch, place, following, trial, curve))
    return now


def _decide(
    study: optuna.Study,
    running: list[tuple[float, int, int, optuna.Trial, Curve]],
    asked: Sequence[int],
    epochs: int,
    ends: list[int],
    rungs: _Rungs,
) -> float:
    now, place, epoch, trial, curve = heapq.heappop(running)
    score = score_at(curve, epoch, epochs)
    if epoch == epochs:
        study.tell(trial, score)
        ends[place] = epochs
        return now
    trial.report(score, epoch)
    rungs.came(epoch, score)
    if trial.should_prune():
        ends[place] = epoch
        if rungs.pruner.freezes:
            rungs.wait(epoch, score, place, trial, curve)
        else:
            study.tell(trial, state=TrialState.PRUNED)
        return now
    following = next((later for later in asked if later > epoch), epochs)
    heapq.heappush(running, (now + following - epoch, place, following, trial, curve))
    return now


def _decided_at(pruner: Pruner, epochs: int, eval_every: int) -> list[int]:
    """Epochs, those behind the first thinned out evenly; empty where no trial can be stopped."""
    if pruner.first_epoch is None:
        return []
    asked = [
        epoch
        for epoch in range(pruner.first_epoch, epochs)
        if pruner.asked_at(epoch) and (pruner.must_be_validated(epoch) or epoch % eval_every == 0)
    ]
    return asked[:: max(1, math.ceil(len(asked) / DECISIONS))]


def score_at(curve: Curve, epoch: int, epochs: int) -> float:
    """After this epoch of a trial that is so long: between the two nearest that were recorded."""
    if len(curve) == 1:
        return curve[0]
    at = (epoch - 1) / max(1, epochs - 1) * (len(curve) - 1)
    low = min(int(at), len(curve) - 2)
    return curve[low] + (at - low) * (curve[low + 1] - curve[low])
