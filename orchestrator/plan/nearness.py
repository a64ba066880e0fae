"""How far apart two configurations of a search space are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.plan.space import SearchSpace

ALIKE = 0.05
"""Values that differ by less than this share of their range count as one."""


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


def all_apart(
    space: SearchSpace, ones: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """What `apart` says of each of the ones and each of the others, of very many in a moment:
    [ones, others, names of the space]."""
    found = np.zeros((len(ones), len(others), len(space.dimensions)))
    for place, dimension in enumerate(space.dimensions):
        name, distribution = dimension.name, dimension.distribution
        first, second = (
            np.array(
                [_coordinate(distribution, one[name]) if name in one else np.nan for one in of]
            )
            for of in (ones, others)
        )
        gaps = np.abs(first[:, None] - second[None, :])
        if not _is_ordered(distribution):
            gaps = np.minimum(gaps, 1.0)
        one_has, other_has = ~np.isnan(first)[:, None], ~np.isnan(second)[None, :]
        found[:, :, place] = np.where(one_has & other_has, gaps, one_has != other_has)
    return found


def _coordinate(distribution: BaseDistribution, value: Any) -> float:
    """On a range and among choices that are numbers how far it is from the lowest; else the place
    of the choice."""
    if isinstance(distribution, CategoricalDistribution):
        if not _is_ordered(distribution):
            return distribution.to_internal_repr(value)
        lowest: Any = min(distribution.choices)  # type: ignore[type-var]
    else:
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        lowest = distribution.low
    return 0.0 if value == lowest else _apart(distribution, value, lowest)


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


def _is_ordered(distribution: BaseDistribution) -> bool:
    return not isinstance(distribution, CategoricalDistribution) or all(
        map(_is_number, distribution.choices)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_MISSING = object()
