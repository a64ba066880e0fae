"""Which study got each trial, and why some ended, decided again (`--allocation gain`).

Drawings and ends of all studies happen again in their order over the sweep (`order.py`); before
each drawing the studies share what is left by what had ended then and what people had
asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial

from orchestrator.plan.allocation import EndedEarly, Evidence, Shares, StudyShare
from orchestrator.record.difference import Difference, is_same
from orchestrator.record.order import drawn_at, drawn_in_sweep, ended_in_sweep, number_of
from orchestrator.record.record import REQUESTS_FOLLOWED, Record, evidence_of_trials
from orchestrator.record.requests import Request, requests
from orchestrator.record.steering import most_trials, steering_of

_ENDS = "that it ends"


def choices_again(record: Record) -> Iterator[Difference | None]:
    """One for every trial that a study got and every study that ended; None: it follows.

    None of a trial whose driver was killed before it could write what the choice followed.
    ValueError where the order of the events has a gap.
    """
    events = _in_order(record)
    ends = sorted(
        (
            (ended, study.name)
            for study in record.plan.studies
            for ended in record.ends_early(study.name)
        ),
        key=lambda one: one[0].after_event_in_sweep,
    )
    again = _Again(record)
    for number, (study, trial, is_drawn) in enumerate(events):
        while ends and ends[0][0].after_event_in_sweep <= number:
            yield again.ends(*ends.pop(0))
        if is_drawn:
            followed = number_of(trial, REQUESTS_FOLLOWED)
            if followed is not None:
                yield again.is_chosen(study, trial, followed)
            again.is_drawn(study)
        else:
            again.trial_ends(study, trial)
    for ended, study in ends:
        yield again.ends(ended, study)


def _in_order(record: Record) -> list[tuple[str, FrozenTrial, bool]]:
    found = []
    for study in record.plan.studies:
        for trial in record.optuna_study(study.name).get_trials(deepcopy=False):
            for is_drawn, number in ((True, drawn_in_sweep(trial)), (False, ended_in_sweep(trial))):
                if number is not None:
                    found.append((number, study.name, trial, is_drawn))
    found.sort(key=lambda event: event[0])
    for expected, (number, study, trial, _) in enumerate(found):
        if number != expected:
            raise ValueError(
                f"expected event {expected} of the sweep, found {number}: {study} #{trial.number}"
            )
    return [event[1:] for event in found]


class _Again:
    """The shares of all studies, to which happens what happened."""

    def __init__(self, record: Record) -> None:
        self._plan = record.plan
        self._requests: Sequence[Request] = requests(record)
        self._num_requests = 0
        self._ended: dict[str, list[FrozenTrial]] = {study.name: [] for study in self._plan.studies}
        self._shares = {
            study.name: StudyShare(
                name=study.name,
                share=study.num_trials,
                most=most_trials(self._plan, study.name),
                num_asked=0,
                evidence=self._evidence(study.name),
            )
            for study in self._plan.studies
        }

    def is_chosen(self, study: str, trial: FrozenTrial, num_requests: int) -> Difference | None:
        self._follow(num_requests)
        event = drawn_at(trial) or 0
        late = [share for share in self._shares.values() if share.ends_now]
        if late:
            return self._differs(late[0].name, trial.number, event, _ENDS, None, True)
        names = [share.name for share in Shares([*self._shares.values()]).next_studies()]
        if study in names:
            return None
        what = "the study that gets a trial"
        return self._differs(study, trial.number, event, what, study, " or ".join(names))

    def is_drawn(self, study: str) -> None:
        share = self._shares[study]
        self._shares[study] = replace(share, num_asked=share.num_asked + 1)

    def trial_ends(self, study: str, trial: FrozenTrial) -> None:
        self._ended[study].append(trial)
        self._shares[study] = replace(self._shares[study], evidence=self._evidence(study))

    def ends(self, ended: EndedEarly, study: str) -> Difference | None:
        self._follow(ended.num_requests)
        share = self._shares[study]
        self._shares[study] = replace(share, ended=ended)
        trial, event = ended.num_asked - 1, ended.after_event
        if not share.ends_now:
            return self._differs(study, trial, event, _ENDS, True, None)
        compared = [
            ("trials", ended.num_asked, share.num_asked),
            ("complete trials", ended.num_complete, share.evidence.num_complete),
            ("trials more", ended.num_more, share.num_more),
            ("its most trials", ended.ceiling, share.ceiling),
            ("expected gain", ended.gain, share.gain_of_more),
            ("error of the expected gain", ended.gain_error, share.gain_error),
            ("noise", ended.error, share.evidence.error),
        ]
        for what, stored, derived in compared:
            if not is_same(stored, derived):
                return self._differs(study, trial, event, f"{_ENDS}: {what}", stored, derived)
        return None

    def _follow(self, num_requests: int) -> None:
        """What people had asked for by then."""
        if num_requests == self._num_requests:
            return
        self._num_requests = num_requests
        steering = steering_of(self._plan, self._requests[:num_requests])
        for name, share in self._shares.items():
            self._shares[name] = replace(
                share,
                share=steering.trials[name],
                is_stopped=name in steering.stopped,
                must_go_on=name in steering.go_on,
            )

    def _evidence(self, study: str) -> Evidence:
        return evidence_of_trials(self._plan.task(self._plan.study(study).task), self._ended[study])

    @staticmethod
    def _differs(
        study: str, trial: int, event: int, what: str, stored: object, derived: object
    ) -> Difference:
        return Difference(
            study=study, trial=trial, event=event, what=what, stored=stored, derived=derived
        )
