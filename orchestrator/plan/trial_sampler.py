"""What draws one trial: a start point, the priors of its space, or the plan's sampler."""

from dataclasses import dataclass

import optuna

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.prior import FROM_PRIOR, FromPriors, draws_from_priors
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
) -> TrialSampler:
    """For the trial with this number of `study`, which is `stored`; `otherwise` searches."""
    planned, seed = plan.study(study), plan.trial_seed(study, number)
    sampler, origin = otherwise, None
    priors = plan.parsed_spaces[planned.space].priors
    if priors and draws_from_priors(stored, seed):
        sampler, origin = FromPriors(priors, seed, otherwise=sampler), FROM_PRIOR
    if number < len(planned.start_points):
        point = planned.start_points[number]
        sampler, origin = StartingAt(point.config, otherwise=sampler), point.origin
    return TrialSampler(sampler=sampler, origin=origin)
