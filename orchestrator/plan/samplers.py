"""What proposes configurations: one function per sampler, one line each in the list below."""

import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator: Bergstra et al. 2011, as Optuna has it."""
    with warnings.catch_warnings():
        # `group` lets conditional names be sampled jointly; it is marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def random(seed: int) -> optuna.samplers.BaseSampler:
    """Every configuration independent of the others."""
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": tpe,
    "random": random,
}
"""By name, each made from a seed."""


class SeededByName(optuna.samplers.BaseSampler):
    """One of them that draws every name from a seed of its own.

    So a trial that was cut off while it was drawn gets the values it would have had.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._make = SAMPLERS[name]
        self._seed = seed
        self._joint = self._make(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._joint.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._joint.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._make(zlib.crc32(f"{self._seed}/{param_name}".encode()))
        return sampler.sample_independent(study, trial, param_name, param_distribution)
