"""Winners shared within a sweep: what did best on other tasks is tried (`--share-winners`).

The studies of a search space advance together on all its tasks. Every third trial of each is the
configuration that the others recommend most, as in the two stages of Wistuba, Schilling and
Schmidt-Thieme 2016 (https://doi.org/10.1007/978-3-319-46227-1_13): each task says by its own trials
where a configuration would stand there, and is heard the more, the better it puts the trials of
this study in their order. So which tasks are near is learned from the trials alone.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.nearness import ALIKE, all_apart
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.plan.space import SearchSpace
from orchestrator.plan.start_points import FROM_SPACE, LEAST_TRIALS_A_START_POINT
from orchestrator.support.counted import counted

EVERY = LEAST_TRIALS_A_START_POINT
"""Of so many trials of a study one may be a winner of another's."""
LEAST_ENDED = 2
"""Trials of a study that have ended before it is heard: one says nothing of better and worse."""
MOST_OF_EACH = 5
"""Winners of each study that are considered."""
WIDTH = 0.5
"""Distance within which a trial tells of a configuration: the standard deviation of a kernel."""
NEUTRAL = 0.5
"""The standing of an average trial, which is believed of a configuration that nobody tried..."""
NEUTRAL_WEIGHT = 0.5
"""... as if that were known from half a trial."""
PRIOR_AGREEMENT = 0.75
"""The share of pairs that two tasks put in the same order, before any was seen..."""
PRIOR_PAIRS = 4
"""... as if it were known from so many."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """A trial of another study, whose configuration is to be tried."""

    study: str
    number: int
    config: Mapping[str, Any]

    @property
    def origin(self) -> str:
        return f"shared: {self.study} #{self.number}"


def shares_winners(study: StudyPlan, number: int) -> bool:
    """Whether the trial with this number may be a winner of another study, where they are shared.

    Every third; behind start points from elsewhere not before a third of all trials up to this one
    would come from elsewhere.
    """
    elsewhere = sum(point.origin != FROM_SPACE for point in study.start_points)
    is_start = number < len(study.start_points)
    return not is_start and number % EVERY == EVERY - 1 and number // EVERY >= elsewhere


def refuse_without_room(studies: Sequence[StudyPlan]) -> None:
    """ValueError if no trial of any study could be a winner of another."""
    first = [next(n for n in itertools.count() if shares_winners(one, n)) for one in studies]
    if any(number < one.num_trials for number, one in zip(first, studies, strict=True)):
        return
    raise ValueError(
        f"--share-winners: {counted(studies[0].num_trials, 'trial')} of a study leave no room for "
        "winners of others, which with all else that comes from elsewhere are a third of them; "
        f"--trials {min(first) + 1} would do"
    )


def others_of_space(plan: SweepPlan, study: StudyPlan) -> list[str]:
    """The studies of the same space on other tasks, in the order of the plan."""
    return [one.name for one in plan.studies if one.space == study.space and one != study]


def winner_of(
    space: SearchSpace, own: Sequence[FrozenTrial], others: Mapping[str, Sequence[FrozenTrial]]
) -> Winner | None:
    """What the other studies recommend to this one; None if nothing that is better than average.

    `own` are its other trials, also those that run; `others` by study those that have ended.
    """
    heard = {
        name: trials
        for name, trials in others.items()
        if len(trials) >= LEAST_ENDED and any(t.state is TrialState.COMPLETE for t in trials)
    }
    if not heard:
        return None
    known = [trial for trials in heard.values() for trial in trials]
    places = np.repeat(np.arange(len(heard)), [len(trials) for trials in heard.values()])
    standing = np.concatenate([standings(trials) for trials in heard.values()])
    candidates = _candidates(space, known, places, standing, own)
    if not len(candidates):
        return None
    ended = [trial for trial in own if trial.state.is_finished()]
    own_standing = standings(ended)
    weights = _agreements(_expected(space, ended, known, places, standing), own_standing)
    asked = [known[place] for place in candidates]
    expected = _expected(space, asked, known, places, standing)
    here = _expected(space, asked, ended, np.zeros(len(ended), dtype=int), own_standing, num=1)
    all_weights = np.append(weights, 1.0)
    # Another processor may round the last digits otherwise, and replay must choose the same.
    scores = np.round(np.hstack([expected, here]) @ all_weights / all_weights.sum(), 9)
    best = int(np.argmax(scores))
    if not weights.any() or scores[best] <= NEUTRAL:
        return None
    trial = asked[best]
    study = list(heard)[places[candidates[best]]]
    return Winner(study=study, number=trial.number, config=trial.params)


def standings(trials: Sequence[FrozenTrial]) -> np.ndarray:
    """Of ended trials of one study: 1 the best, 0 the worst, equal ones in between; [trials].

    Complete ones stand before pruned ones, which compare by how far they came, and those before
    failed ones.
    """
    if len(trials) < 2:
        return np.full(len(trials), NEUTRAL)
    keys = [_key(trial) for trial in trials]
    order = {key: place for place, key in enumerate(sorted(set(keys)))}
    places = np.array([order[key] for key in keys])
    counts = np.bincount(places)
    worse = np.cumsum(counts) - counts
    return (worse + (counts - 1) / 2)[places] / (len(trials) - 1)


def _key(trial: FrozenTrial) -> tuple[int, float, float]:
    if trial.state is TrialState.COMPLETE:
        assert trial.value is not None
        return 2, 0, trial.value
    if trial.state is TrialState.PRUNED and trial.intermediate_values:
        epoch, value = max(trial.intermediate_values.items())
        return 1, epoch, value
    return 0, 0, 0


def _candidates(
    space: SearchSpace,
    known: Sequence[FrozenTrial],
    places: np.ndarray,
    standing: np.ndarray,
    own: Sequence[FrozenTrial],
) -> np.ndarray:
    """Which of the known trials are winners that this study has not tried, or nearly so."""
    order = np.lexsort((np.arange(len(known)), -standing, places))
    is_winner = [
        place
        for place in order
        if known[place].state is TrialState.COMPLETE and standing[place] > NEUTRAL
    ]
    winners = np.array(
        [
            place
            for rank, place in enumerate(is_winner)
            if rank < MOST_OF_EACH or places[is_winner[rank - MOST_OF_EACH]] != places[place]
        ],
        dtype=int,
    )
    tried = [trial.params for trial in own]
    gaps = all_apart(space, [known[place].params for place in winners], tried)
    is_tried = np.any(np.all(gaps <= ALIKE, axis=2), axis=1)
    return winners[~is_tried]


def _expected(
    space: SearchSpace,
    asked: Sequence[FrozenTrial],
    known: Sequence[FrozenTrial],
    places: np.ndarray,
    standing: np.ndarray,
    num: int | None = None,
) -> np.ndarray:
    """Where each of the configurations would stand in each study by its own trials: [asked,
    studies]."""
    num = int(places.max()) + 1 if num is None else num
    gaps = all_apart(space, [one.params for one in asked], [one.params for one in known])
    near = np.exp(-((gaps**2).sum(axis=2)) / (2 * WIDTH**2))
    of_study = np.eye(num)[places]
    return (NEUTRAL_WEIGHT * NEUTRAL + (near * standing) @ of_study) / (
        NEUTRAL_WEIGHT + near @ of_study
    )


def _agreements(expected: np.ndarray, standing: np.ndarray) -> np.ndarray:
    """How much each study is heard, from 0 (it orders pairs of trials as chance does) to 1.

    `expected` is [trials, studies], `standing` [trials].
    """
    first, second = np.triu_indices(len(standing), 1)
    differs = standing[first] != standing[second]
    first, second = first[differs], second[differs]
    sign = np.sign(standing[first] - standing[second])[:, None]
    order = np.sign(np.round(expected[first] - expected[second], 9))
    alike = ((1 + sign * order) / 2).sum(axis=0)
    share = (alike + PRIOR_PAIRS * PRIOR_AGREEMENT) / (len(first) + PRIOR_PAIRS)
    return np.maximum(0.0, 2 * share - 1)
