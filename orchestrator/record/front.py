"""The Pareto front of a study: its complete trials that no other beats in both score and cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator.plan.costs import Cost
from orchestrator.plan.plan import TaskPlan
from orchestrator.record.record import TrialRecord
from orchestrator.support.uncertainty import standard_error


@dataclass(frozen=True, kw_only=True)
class Point:
    """A complete trial between its two objectives."""

    trial: TrialRecord
    score: float
    error: float
    """Standard error of the score, for the finite number of val images."""
    cost: float


@dataclass(frozen=True, kw_only=True)
class Front:
    """The points of one study, or of all studies of a task."""

    cost: Cost
    points: Sequence[Point]
    """All complete trials that have a cost, in the order of their studies and numbers."""

    @cached_property
    def members(self) -> Sequence[Point]:
        """Those that no other beats, the cheapest first; of equals all."""
        found: list[Point] = []
        for point in sorted(self.points, key=_cheapest_first):
            if not found or point.score > found[-1].score or _equal(point, found[-1]):
                found.append(point)
        return found

    def as_good(self, point: Point) -> Point | None:
        """The cheapest of the front that costs less and is within one standard error of a point.

        Breiman et al. 1984 choose by this rule: what costs more for a difference that the val
        images do not show is not worth its cost.
        """
        cheaper = (one for one in self.members if one.cost < point.cost)
        return next((one for one in cheaper if one.score >= point.score - point.error), None)

    @cached_property
    def near(self) -> Sequence[Point]:
        """Those off the front that would be on it if their score were one standard error more."""
        on_it = set(map(id, self.members))
        return [point for point in self.points if id(point) not in on_it and self._is_near(point)]

    def _is_near(self, point: Point) -> bool:
        as_cheap = (one.score for one in self.members if one.cost <= point.cost)
        return point.score + point.error > max(as_cheap)


def front_of(trials: Iterable[TrialRecord], task: TaskPlan, cost: Cost) -> Front:
    """Of trials on one task; those that are not complete have no score that compares."""
    points = []
    for trial in trials:
        value = cost.of(trial.facts)
        if trial.state != "complete" or trial.val_accuracy is None or value is None:
            continue
        error = standard_error(trial.val_accuracy, trial.val_images(task))
        points.append(Point(trial=trial, score=trial.val_accuracy, error=error, cost=value))
    return Front(cost=cost, points=points)


def _cheapest_first(point: Point) -> tuple[float, float]:
    return point.cost, -point.score


def _equal(one: Point, other: Point) -> bool:
    return (one.cost, one.score) == (other.cost, other.score)
