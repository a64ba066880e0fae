"""What a sweep may minimize beside the score that it maximizes: the second of two objectives.

Each is made of facts that a worker tells of every trial. Peak memory is none of them: it holds what
a warm worker keeps of other trials, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from orchestrator.support.did_you_mean import nearest, unknown
from orchestrator.support.document import OneOf
from orchestrator.support.shown_values import number_text


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One of them: less is better."""

    name: str
    words: str
    """For a sentence, and with the unit for a column or an axis."""
    of: Callable[[Mapping[str, Any]], float | None]
    """From the facts of a trial; None where they do not say it."""
    is_measured: bool = False
    """It would be another one the next time."""
    unit: str = ""
    per_unit: float = 1.0
    """How many of the unit that is shown are in one of the value's."""

    @property
    def title(self) -> str:
        return f"{self.words}, {self.unit}" if self.unit else self.words

    def shown(self, value: float) -> float:
        """In the unit that is shown."""
        return value * self.per_unit

    def text(self, value: float) -> str:
        """`1,290`, in the unit that is shown."""
        return number_text(self.shown(value))


def _trained_parameters(facts: Mapping[str, Any]) -> float | None:
    told = facts.get("num_tuned_parameters")
    return None if told is None else float(told)


def _train_seconds_per_image(facts: Mapping[str, Any]) -> float | None:
    images_per_second = facts.get("images_per_second")
    return 1 / images_per_second if images_per_second else None


COSTS: Mapping[str, Cost] = {
    cost.name: cost
    for cost in (
        Cost(
            name="trained_parameters",
            words="trained parameters",
            of=_trained_parameters,
        ),
        Cost(
            name="train_seconds_per_image",
            words="training time per image",
            of=_train_seconds_per_image,
            is_measured=True,
            unit="ms",
            per_unit=1000.0,
        ),
    )
}
"""By name."""

MINIMIZE = "minimize"


@dataclass(frozen=True, kw_only=True)
class Also:
    """The second objective as a plan says it."""

    minimize: Annotated[str, OneOf(tuple(COSTS))]

    @property
    def cost(self) -> Cost:
        return COSTS[self.minimize]


def second_objective(asked: Sequence[str] | None) -> Also | None:
    """What `--also minimize=NAME` asks for; ValueError says what would work."""
    if not asked:
        return None
    if len(asked) > 1:
        raise ValueError(
            f"--also {' '.join(asked)}: a sweep has two objectives, its score and one cost"
        )
    (entry,) = asked
    direction, _, name = entry.rpartition("=")
    if direction != MINIMIZE:
        meant = nearest(name, COSTS) or "NAME"
        raise ValueError(
            f"--also {entry}: the score is maximized, a cost is minimized: expected "
            f"{MINIMIZE}={meant}" + ("" if meant in COSTS else f", of {', '.join(COSTS)}")
        )
    if name not in COSTS:
        raise ValueError(f"--also {entry}: {unknown('cost', name, COSTS)}")
    return Also(minimize=name)
