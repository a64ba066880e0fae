"""A search decided again: what sampler and pruner said follows from what stood in the storage then.

A study is built up in memory, event by event in its order (`order.py`). Before each the same
functions are asked that the record asked (`decided.py`), and what they say is compared with what is
stored; then what is stored goes in, so that one difference does not bring about others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.allocation import GAIN
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.decided import Decision, decide, propose
from orchestrator.record.difference import Difference, is_same
from orchestrator.record.frozen import first_to_go_on
from orchestrator.record.order import (
    FROZEN,
    THAWED,
    decisions_of,
    drawn_at,
    ended_at,
    freezes_of,
    thaws_of,
)
from orchestrator.record.others import Ended, ended_in, others_then
from orchestrator.record.record import STATES, Record
from orchestrator.record.shared_again import choices_again
from orchestrator.record.stored_facts import refuse_other_facts
from orchestrator.support.document import read_as
from orchestrator.support.phases import each


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What was decided again in one study."""

    study: str
    trials: int
    suggestions: int = 0
    """Configurations that were drawn again."""
    decisions: int = 0
    """Times that the pruner was asked again."""
    choices: int | None = None
    """Of the sweep: times that it was decided again which study gets a trial, or that one ends;
    None where studies do not share their trials."""
    differences: Sequence[Difference] = ()
    """The first of each event at which there is any."""
    not_replayed: str | None = None
    """Why nothing was decided again."""


def replayed(record: Record) -> list[Replayed]:
    """Every study, decided again. ValueError if none can be, or is as the record does not write."""
    plan = record.plan
    studies = {study.name: record.optuna_study(study.name) for study in plan.studies}
    for name, study in studies.items():
        space = plan.parsed_spaces[plan.study(name).space]
        for trial in study.get_trials(deepcopy=False):
            refuse_other_facts(trial, space, source=f"study {name}")

    # Every shared winner asks for all studies of its space, as they were when it was drawn.
    @cache
    def ended(name: str) -> Sequence[tuple[FrozenTrial, int]]:
        return ended_in(studies[name])

    found = [
        _replay_study(plan, study.name, studies[study.name], ended)
        for study in each("deciding again, studies", plan.studies, len(plan.studies))
    ]
    if all(study.not_replayed for study in found):
        raise ValueError(f"sweep {plan.name} cannot be replayed: {found[0].not_replayed}")
    return _with_choices(record, found) if plan.allocation == GAIN else found


def _with_choices(record: Record, found: Sequence[Replayed]) -> list[Replayed]:
    choices = list(choices_again(record))
    return [
        replace(
            study,
            choices=len(choices),
            differences=(*study.differences, *(c for c in choices if c and c.study == study.study)),
        )
        for study in found
    ]


def _replay_study(plan: SweepPlan, name: str, stored: optuna.Study, ended: Ended) -> Replayed:
    trials = stored.get_trials(deepcopy=False)
    events = _in_order(name, [event for trial in trials for event in _events_of(plan, name, trial)])
    if events is None:
        return Replayed(
            study=name,
            trials=len(trials),
            not_replayed="its trials ran side by side under an older version, which did not keep "
            "their order",
        )
    again = _Again(plan, name, stored, ended)
    found = [again.happens(event) for event in events]
    return Replayed(
        study=name,
        trials=len(trials),
        suggestions=sum(event.kind == "drawn" for event in events),
        decisions=sum(event.kind in ("judged", "thawed") for event in events),
        differences=tuple(difference for difference in found if difference is not None),
    )


@dataclass(frozen=True, kw_only=True)
class _Event:
    kind: Literal["drawn", "judged", "frozen", "thawed", "ended"]
    trial: FrozenTrial
    number: int | None
    """None: an older version did not number it."""
    epoch: int = 0
    """Of a decision, or of the one before it was frozen."""
    decision: Decision = field(default_factory=Decision)
    """The last on the trial."""


def _events_of(plan: SweepPlan, name: str, trial: FrozenTrial) -> Iterator[_Event]:
    """In the order in which they happened to the trial."""
    drawn = drawn_at(trial)
    if drawn is None and not (trial.params or "seed" in trial.user_attrs):
        return  # its driver was killed before it was drawn
    source = f"study {name}: trial #{trial.number}: decision"
    decision = read_as(Decision, trial.user_attrs.get("decision", {}), source=source)
    numbers = dict(decisions_of(trial))
    first = min(numbers, default=decision.epoch + 1)
    unnumbered = [
        epoch
        for epoch in sorted(trial.intermediate_values)
        if drawn is None and epoch < first and plan.pruner.asked_at(epoch)
    ]
    yield _Event(kind="drawn", trial=trial, number=drawn)
    for epoch in (*unnumbered, *numbers):
        number = numbers.get(epoch)
        yield _Event(kind="judged", trial=trial, number=number, epoch=epoch, decision=decision)
    for epoch, number in freezes_of(trial):
        yield _Event(kind="frozen", trial=trial, number=number, epoch=epoch, decision=decision)
    for epoch, number in thaws_of(trial):
        yield _Event(kind="thawed", trial=trial, number=number, epoch=epoch, decision=decision)
    if trial.state.is_finished():
        yield _Event(kind="ended", trial=trial, number=ended_at(trial), decision=decision)


def _in_order(name: str, events: Sequence[_Event]) -> Sequence[_Event] | None:
    """All events of a study, given trial by trial, as they happened; None: that was not kept."""
    numbered = sorted(
        (event for event in events if event.number is not None), key=lambda event: event.number or 0
    )
    if len(numbered) == len(events):
        for number, event in enumerate(numbered):
            if event.number != number:
                raise ValueError(
                    f"study {name}: expected event {number}, found {event.number}: "
                    f"trial #{event.trial.number} {event.kind}"
                )
        return numbered
    # Without numbers it is known where each trial had ended before the next began.
    trials = [event.trial for event in events if event.kind == "drawn"]
    if any(_side_by_side(*two) for two in pairwise(trials)):
        return None
    return [replace(event, number=number) for number, event in enumerate(events)]


def _side_by_side(earlier: FrozenTrial, later: FrozenTrial) -> bool:
    ended, began = earlier.datetime_complete, later.datetime_start
    return ended is None or began is None or began < ended


class _Again:
    """A study in memory, to which happens what happened."""

    def __init__(self, plan: SweepPlan, name: str, stored: optuna.Study, ended: Ended) -> None:
        self._plan, self._name, self._ended_of_others = plan, name, ended
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=stored.study_name,  # hyperband tells its brackets by it
            directions=stored.directions,
            pruner=plan.pruner.make(),
        )
        self._ids: dict[int, int] = {}
        self._reported: dict[int, int] = {}
        self._rungs: dict[int, Mapping[str, Any]] = {}
        """By trial, what the last decision on it left."""

    def happens(self, event: _Event) -> Difference | None:
        """What is stored of an event and does not follow from those before it."""
        happen = {
            "drawn": self._is_drawn,
            "judged": self._is_judged,
            "frozen": self._is_frozen,
            "thawed": self._goes_on,
            "ended": self._ends,
        }
        found = happen[event.kind](event)
        if found is None:
            return None
        what, stored, derived = found
        assert event.number is not None
        return Difference(
            study=self._name,
            trial=event.trial.number,
            event=event.number,
            what=what,
            stored=stored,
            derived=derived,
        )

    def _is_drawn(self, event: _Event) -> "_Differs | None":
        trial, new = event.trial, self._study.ask()
        if new.number != trial.number:
            raise ValueError(
                f"study {self._name}: event {event.number} draws trial #{trial.number}, "
                f"and #{new.number} was not drawn yet"
            )
        trial_id = self._ids[trial.number] = new._trial_id
        others = others_then(self._ended_of_others, trial)
        proposal = propose(self._plan, self._name, self._study, trial_id, trial.number, others)
        for name, distribution in trial.distributions.items():
            value = distribution.to_internal_repr(trial.params[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        derived = {
            name: distribution.to_external_repr(value)
            for name, (value, distribution) in proposal.params.items()
        }
        found = _first_difference(trial.params, derived)
        if found is None and self._plan.share_winners:
            found = _first_difference(trial.user_attrs.get("origin"), proposal.origin, "origin")
        if found is None and self._plan.pruner.freezes:
            # One that may go on comes before a new one.
            passed_over = first_to_go_on(self._study)
            found = passed_over and ("goes on", None, f"#{passed_over.number}")
        return found

    def _is_judged(self, event: _Event) -> "_Differs | None":
        trial, trial_id = event.trial, self._ids[event.trial.number]
        self._report(trial, event.epoch)
        derived = asdict(decide(self._plan, self._study, trial_id, event.epoch))
        rungs = {**trial.system_attrs, **event.decision.rungs}
        shown = {name: rungs[name] for name in derived["rungs"] if name in rungs}
        for name, value in shown.items():
            self._storage.set_trial_system_attr(trial_id, name, value)
        self._rungs[trial.number] = shown
        # Of earlier decisions nothing is stored but whether it stopped the trial, which then was
        # frozen, and its rungs.
        stopped = event.epoch in dict(freezes_of(trial))
        stored = {"stops": stopped, "rungs": shown}
        if event.epoch == event.decision.epoch:
            told = trial.user_attrs["decision"]
            stored = {key: told[key] for key in ("stops", "rungs", "against") if key in told}
        derived = {key: derived[key] for key in stored}
        return _first_difference(stored, derived, f"decision after epoch {event.epoch}")

    def _is_frozen(self, event: _Event) -> None:
        trial_id, rungs = self._ids[event.trial.number], self._rungs[event.trial.number]
        self._storage.set_trial_user_attr(trial_id, "decision", {"rungs": rungs})
        self._happened(event, FROZEN)

    def _goes_on(self, event: _Event) -> "_Differs | None":
        first = first_to_go_on(self._study)
        self._happened(event, THAWED)
        derived = None if first is None else f"#{first.number}"
        return _first_difference(f"#{event.trial.number}", derived, "goes on")

    def _happened(self, event: _Event, attribute: str) -> None:
        trial_id = self._ids[event.trial.number]
        before = self._storage.get_trial(trial_id).user_attrs.get(attribute, [])
        entry = (event.epoch, event.number)
        self._storage.set_trial_user_attr(trial_id, attribute, [*before, entry])

    def _ends(self, event: _Event) -> "_Differs | None":
        trial = event.trial
        self._report(trial, max(trial.intermediate_values, default=0))
        trial_id = self._ids[trial.number]
        # Of what a worker told, its cost may decide what is drawn next.
        self._storage.set_trial_user_attr(trial_id, "facts", trial.user_attrs.get("facts", {}))
        self._storage.set_trial_state_values(trial_id, trial.state, trial.values)
        if trial.state is TrialState.FAIL:
            return None
        went_on = event.decision.epoch in dict(thaws_of(trial))
        is_stopped = event.decision.stops and not went_on
        by_decision = TrialState.PRUNED if is_stopped else TrialState.COMPLETE
        return _first_difference(STATES[trial.state], STATES[by_decision], "state")

    def _report(self, trial: FrozenTrial, epoch: int) -> None:
        before = self._reported.get(trial.number, 0)
        for reported, value in trial.intermediate_values.items():
            if before < reported <= epoch:
                self._storage.set_trial_intermediate_value(self._ids[trial.number], reported, value)
        self._reported[trial.number] = epoch


_Differs = tuple[str, Any, Any]
"""What, as it is stored, and as it was derived."""


def _first_difference(stored: Any, derived: Any, what: str = "") -> _Differs | None:
    if not (isinstance(stored, Mapping) and isinstance(derived, Mapping)):
        return None if is_same(stored, derived) else (what, stored, derived)
    for key in dict.fromkeys([*derived, *stored]):
        below = f"{what}: {key}" if what else str(key)
        if found := _first_difference(stored.get(key), derived.get(key), below):
            return found
    return None
