"""How far apart two configurations of a search space are."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.plan.space import SearchSpace


def apart(space: SearchSpace, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """By name: 0 where they are equal. Two ends of a range are 1 apart, as are two choices and a
    name that only one has; choices that are numbers are apart by their places."""
    found = {}
    for dimension in space.dimensions:
        first, second = (config.get(dimension.name, _MISSING) for config in (one, other))
        if first is _MISSING or second is _MISSING:
            found[dimension.name] = float(first is not second)
        elif first != second:
            found[dimension.name] = abs(_apart(dimension.distribution, first, second))
    return found


def distance(space: SearchSpace, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The square of how far they are apart in all."""
    return sum(each**2 for each in apart(space, one, other).values())


def _apart(distribution: BaseDistribution, first: Any, second: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        if not all(_is_number(one) for one in (*choices, first, second)):
            return 1.0
        places = sorted(choices)  # type: ignore[type-var]
        return (places.index(first) - places.index(second)) / (len(places) - 1)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, first, second = map(math.log, (low, high, first, second))
    return (first - second) / (high - low)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_MISSING = object()
