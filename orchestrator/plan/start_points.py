"""Configurations that a study tries first, before its sampler proposes any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from orchestrator.plan.space import SearchSpace
from orchestrator.support.document import Name

FROM_SPACE = "the search space"
"""The origin of those that stand under `start` in a search space."""

OF_SWEEP = "of sweep"
"""Stands in the origin of those that an older sweep found (`warm_start.py`)."""

LEAST_TRIALS_A_START_POINT = 3
"""A study has so many trials for each configuration that is not the user's own: what did well
elsewhere must leave it room for a search of its own."""


@dataclass(frozen=True, kw_only=True)
class StartPoint:
    """One of them: trial number i of a study has start point number i."""

    config: Mapping[Annotated[str, Name()], Any]
    """Values by name; what is searched and not named here is drawn."""
    origin: str
    """Where it comes from, in words."""


def start_points_of(space: SearchSpace, num_trials: int) -> tuple[StartPoint, ...]:
    """Those that the space itself names, as far as there are trials for them."""
    return tuple(StartPoint(config=one, origin=FROM_SPACE) for one in space.start[:num_trials])


class StartingAt(optuna.samplers.BaseSampler):
    """Proposes the values of a start point, and has another sampler draw what it does not name.

    Values are never put into the storage ahead of their trial, as `enqueue_trial` does: whoever
    holds the plan knows them, and a trial that was cut off while it was drawn gets them again.
    """

    def __init__(self, config: Mapping[str, Any], otherwise: optuna.samplers.BaseSampler) -> None:
        self._config = config
        self._otherwise = otherwise

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """None: names are drawn one by one, since most are given."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name in self._config:
            stored = param_distribution.to_internal_repr(self._config[param_name])
            return param_distribution.to_external_repr(stored)  # 1 is 1.0 where a float is drawn
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


def refuse_start_points(points: Sequence[StartPoint], space: SearchSpace, source: str) -> None:
    """ValueError names a value that the space would not draw."""
    for number, point in enumerate(points):
        space.check_drawn(point.config, source=f"{source}: start_points: {number}")
