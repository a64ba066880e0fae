"""The order of what happened in a study: each drawing, decision and end of a trial has a number.

Sampler and pruner decide by what stands in the storage at that moment; with several slots that
depends on which trial was drawn, judged or ended before which. The number of an event is written in
one transaction with it, and numbers go on after those that are there, so that they have no gap.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.support.document import shown

DRAWN = "drawn_as_event"
ENDED = "ended_as_event"
DRAWN_IN_SWEEP = "drawn_as_event_of_sweep"
ENDED_IN_SWEEP = "ended_as_event_of_sweep"
"""Attributes of a trial. Of one that has not ended the second says nothing: its driver was killed
before it could tell the end. The others are kept where one study's trials depend on another's, and
number these two kinds of events over all studies."""

FROZEN = "frozen_as_event"
THAWED = "thawed_as_event"
"""Of a trial that was frozen, and of one that went on: [epoch, number] each time, since it may
happen at several rungs."""
FREEZES_AND_THAWS_AT = "frozen_and_thawed_at"
"""When that happened, in turn: it was frozen, went on, was frozen again. By the clock of its
driver, without a time zone, as Optuna keeps its start and its end."""


class Order:
    """Numbers the events of studies, one writer for each."""

    def __init__(self, studies: Mapping[str, optuna.Study], *, over_all: bool = False) -> None:
        self._studies = studies
        self._over_all = over_all
        self._next: dict[str, int] = {}
        self._next_of_all: int | None = None

    @contextmanager
    def numbered(self, study: str) -> Iterator[int]:
        """The number of an event that is written meanwhile; what could not be written has none."""
        number = self.num_events(study)
        yield number
        self._next[study] = number + 1

    @contextmanager
    def numbered_over_all(self, study: str, kind: str, of_all: str) -> Iterator[Mapping[str, int]]:
        """The attributes of a trial with the number of an event that is written meanwhile, and with
        its number over all studies where these are kept."""
        with self.numbered(study) as event:
            if not self._over_all:
                yield {kind: event}
                return
            number = self.num_events_of_all()
            yield {kind: event, of_all: number}
            self._next_of_all = number + 1

    def num_events(self, study: str) -> int:
        """So far."""
        if study not in self._next:
            trials = self._studies[study].get_trials(deepcopy=False)
            last = max((number for trial in trials for number in numbers_of(trial)), default=-1)
            self._next[study] = last + 1
        return self._next[study]

    def num_events_of_all(self) -> int:
        """Drawings and ends of all studies, so far."""
        if self._next_of_all is None:
            told = [
                number
                for study in self._studies.values()
                for trial in study.get_trials(deepcopy=False)
                for number in (drawn_in_sweep(trial), ended_in_sweep(trial))
                if number is not None
            ]
            self._next_of_all = max(told, default=-1) + 1
        return self._next_of_all


def numbers_of(trial: FrozenTrial) -> list[int]:
    """Those of its events."""
    lists = decisions_of(trial), freezes_of(trial), thaws_of(trial)
    judged = [number for events in lists for _, number in events]
    return [number for number in (drawn_at(trial), *judged, ended_at(trial)) if number is not None]


def drawn_at(trial: FrozenTrial) -> int | None:
    """The number of its drawing; None: it was not drawn yet, or by an older version."""
    return number_of(trial, DRAWN)


def ended_at(trial: FrozenTrial) -> int | None:
    """The number of its end; None: it has not ended, or an older version ended it."""
    return number_of(trial, ENDED) if trial.state.is_finished() else None


def drawn_in_sweep(trial: FrozenTrial) -> int | None:
    """The number of its drawing over all studies, where it is kept."""
    return number_of(trial, DRAWN_IN_SWEEP)


def ended_in_sweep(trial: FrozenTrial) -> int | None:
    """The number of its end over all studies, where it is kept and the trial has ended."""
    return number_of(trial, ENDED_IN_SWEEP) if trial.state.is_finished() else None


def number_of(trial: FrozenTrial, attribute: str) -> int | None:
    """A number that is kept with it; None: none is. ValueError if something else is."""
    value = trial.user_attrs.get(attribute)
    if value is not None and not _is_count(value):
        raise ValueError(
            f"trial #{trial.number}: {attribute}: expected a number, found {shown(value)}"
        )
    return value


def decisions_of(trial: FrozenTrial) -> list[tuple[int, int]]:
    """Epoch and number of each decision on it, as far as they are numbered."""
    told = trial.user_attrs.get("decision", {})
    events = told.get("events", []) if isinstance(told, Mapping) else told
    return _pairs(trial, events, "decision: events")


def freezes_of(trial: FrozenTrial) -> list[tuple[int, int]]:
    """Epoch and number of each time that it was frozen."""
    return _pairs(trial, trial.user_attrs.get(FROZEN, []), FROZEN)


def thaws_of(trial: FrozenTrial) -> list[tuple[int, int]]:
    """Epoch, that after which it had been frozen, and number of each time that it went on."""
    return _pairs(trial, trial.user_attrs.get(THAWED, []), THAWED)


def freezes_and_thaws_at(trial: FrozenTrial) -> list[datetime]:
    """When it was frozen and went on, in turn; empty where that is not known of each time."""
    told = trial.user_attrs.get(FREEZES_AND_THAWS_AT, [])
    try:
        moments = [datetime.fromisoformat(moment) for moment in told]
    except (TypeError, ValueError):
        moments = None
    if moments is None or any(moment.tzinfo is not None for moment in moments):
        raise ValueError(
            f"trial #{trial.number}: {FREEZES_AND_THAWS_AT}: expected moments, found {shown(told)}"
        )
    return moments if len(moments) == len(freezes_of(trial)) + len(thaws_of(trial)) else []


def is_frozen(trial: FrozenTrial) -> bool:
    """Whether it waits. To Optuna it runs, since what has ended cannot go on there."""
    return trial.state is TrialState.RUNNING and _was_frozen_last(trial)


def trained_until(trial: FrozenTrial) -> int | None:
    """The event after which it trained no more: its end, or if it waited until then its last
    freeze. None as of `ended_at`."""
    if trial.state is TrialState.PRUNED and _was_frozen_last(trial):
        return freezes_of(trial)[-1][1]
    return ended_at(trial)


def _was_frozen_last(trial: FrozenTrial) -> bool:
    """And did not go on since."""
    frozen, thawed = freezes_of(trial), thaws_of(trial)
    return bool(frozen) and (not thawed or frozen[-1][1] > thawed[-1][1])


def _pairs(trial: FrozenTrial, events: Any, where: str) -> list[tuple[int, int]]:
    if not isinstance(events, list | tuple) or not all(map(_is_pair, events)):
        raise ValueError(
            f"trial #{trial.number}: {where}: expected epochs with numbers, found {shown(events)}"
        )
    return [(epoch, number) for epoch, number in events]


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_count, value))
