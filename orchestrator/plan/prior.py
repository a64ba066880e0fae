"""Where a user believes that a hyper-parameter does best: `prior` in a search space.

Trusted most at first and less with every trial that has ended, so that a wrong belief is left
behind: as in PriorBand (Mallik et al. 2023, https://arxiv.org/abs/2306.12370), whose widths these
are, and piBO (Hvarfner et al. 2022, https://arxiv.org/abs/2204.11051).
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from orchestrator.training.config import Value

FROM_PRIOR = "prior"
"""The origin of a trial that drew from the priors of its space."""

FIRST_WEIGHT = 0.5
"""Probability that the first trial draws from them; the sampler's share is never less."""
HALVED_AFTER = 10
"""Trials that have ended when it is half of that: by then TPE has begun to learn, too."""
WIDTH = 0.25
"""Standard deviation on a range: a share of the range, on its own scale."""
NAMED_WEIGHT = 4
"""Of the choice that is named; every other choice has 1."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Where one hyper-parameter is believed to do best."""

    value: Value

    def draw(self, distribution: BaseDistribution, chance: np.random.Generator) -> Value:
        """A value of the distribution, more often near that one."""
        if isinstance(distribution, CategoricalDistribution):
            weights = np.ones(len(distribution.choices))
            weights[int(distribution.to_internal_repr(self.value))] = NAMED_WEIGHT
            return distribution.choices[chance.choice(len(weights), p=weights / weights.sum())]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step
        # Half a step beyond both ends, which are rounded to as other steps are.
        beyond = (step or 0) / 2
        scale = math.log if distribution.log else float
        first, last = scale(low - beyond), scale(high + beyond)
        believed: Any = self.value  # a number, or the page was refused
        belief = NormalDist(scale(believed), WIDTH * (last - first))
        drawn = belief.inv_cdf(chance.uniform(belief.cdf(first), belief.cdf(last)))
        number = math.exp(drawn) if distribution.log else drawn
        if step is not None:
            number = low + round((number - low) / step) * step
        number = min(max(number, low), high)
        return int(number) if isinstance(distribution, IntDistribution) else float(number)


def weight(num_ended: int) -> float:
    """Probability that a trial draws from the priors, after so many complete or pruned ones."""
    return FIRST_WEIGHT * HALVED_AFTER / (HALVED_AFTER + num_ended)


def draws_from_priors(study: optuna.Study, seed: int) -> bool:
    """Whether the trial with this seed does: all names that have one, as they are believed in
    together."""
    told = (TrialState.COMPLETE, TrialState.PRUNED)
    num_ended = len(study.get_trials(deepcopy=False, states=told))
    return bool(_chance(seed, "").uniform() < weight(num_ended))


class FromPriors(optuna.samplers.BaseSampler):
    """Draws the names that have a prior from it, and has another sampler draw the others."""

    def __init__(
        self, priors: Mapping[str, Prior], seed: int, otherwise: optuna.samplers.BaseSampler
    ) -> None:
        self._priors = priors
        self._seed = seed
        self._otherwise = otherwise

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._otherwise.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._otherwise.sample_relative(study, trial, search_space)
        return {name: value for name, value in drawn.items() if name not in self._priors}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if prior := self._priors.get(param_name):
            return prior.draw(param_distribution, _chance(self._seed, param_name))
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


def _chance(seed: int, name: str) -> np.random.Generator:
    """A stream for each name, so that a trial that was cut off gets the values it would have."""
    return np.random.default_rng(zlib.crc32(f"{seed}/prior/{name}".encode()))
