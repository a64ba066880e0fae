"""What draws one trial: a start point, a winner of another task, the priors of its space, or the
plan's sampler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.prior import FROM_PRIOR, FromPriors, draws_from_priors
from orchestrator.plan.shared_winners import winner_of
from orchestrator.plan.start_points import StartingAt


@dataclass(frozen=True, kw_only=True)
class TrialSampler:
    """What one trial is drawn by."""

    sampler: optuna.samplers.BaseSampler
    origin: str | None
    """Where its values come from, in words; None: the plan's sampler alone."""


def sampler_of_trial(
    plan: SweepPlan,
    study: str,
    number: int,
    stored: optuna.Study,
    *,
    otherwise: optuna.samplers.BaseSampler,
    others: Mapping[str, Sequence[FrozenTrial]],
) -> TrialSampler:
    """For the trial with this number of `study`, which is `stored`; `otherwise` searches.

    `others` are the ended trials of the studies that it may take a winner of, by study.
    """
    planned, seed = plan.study(study), plan.trial_seed(study, number)
    sampler, origin = otherwise, None
    priors = plan.parsed_spaces[planned.space].priors
    if priors and draws_from_priors(stored, seed):
        sampler, origin = FromPriors(priors, seed, otherwise=sampler), FROM_PRIOR
    if others:
        own = [one for one in stored.get_trials(deepcopy=False) if one.number != number]
        if (winner := winner_of(plan.parsed_spaces[planned.space], own, others)) is not None:
            sampler, origin = StartingAt(winner.config, otherwise=sampler), winner.origin
    if number < len(planned.start_points):
        point = planned.start_points[number]
        sampler, origin = StartingAt(point.config, otherwise=sampler), point.origin
    return TrialSampler(sampler=sampler, origin=origin)
