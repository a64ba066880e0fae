"""How the studies of a running sweep share its trials (`--allocation`): which gets the next one."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from orchestrator.plan.allocation import GAIN, Shares, StudyShare
from orchestrator.plan.plan import StudyPlan
from orchestrator.record.record import Record
from orchestrator.record.steering import Steering, share_of
from orchestrator.training.config import TrialConfig

logger = logging.getLogger(__name__)


class Allocation(Protocol):
    """Hands the trials of a sweep to its studies, as people want it and as is known of them."""

    @property
    def num_trials(self) -> Mapping[str, int]:
        """By study: those that it had, and those that it is to have by what is known now."""
        ...

    @property
    def to_ask(self) -> Mapping[str, int]:
        """By study: those of these that it has not had."""
        ...

    def next_studies(self) -> Sequence[StudyPlan]:
        """Any of these may get the next trial, in the order of the plan; empty: none is left."""
        ...

    def ask(self, study: str) -> TrialConfig:
        """Give this one, which is among them, the next trial."""
        ...

    def learn(self, study: str) -> None:
        """A trial of the study has ended."""
        ...

    def steer(self, steering: Steering) -> None:
        """People want it otherwise from now on."""
        ...

    def news(self) -> Mapping[str, int] | None:
        """`num_trials`, if they changed since they were told, though nobody wanted it; or None."""
        ...


def allocation_of(record: Record, steering: Steering) -> Allocation:
    """What the sweep was planned with."""
    shares = SharesByGain if record.plan.allocation == GAIN else EqualShares
    return shares(record, steering)


class EqualShares:
    """Each study has what was planned for it, or what people want; all advance together."""

    def __init__(self, record: Record, steering: Steering) -> None:
        self._record = record
        self._num_asked = {s.name: record.num_asked(s.name) for s in record.plan.studies}
        self.steer(steering)

    def next_studies(self) -> Sequence[StudyPlan]:
        """Those with most left to do."""
        most = max(self.to_ask.values())
        if most <= 0:
            return []
        return [s for s in self._record.plan.studies if self.to_ask[s.name] == most]

    def ask(self, study: str) -> TrialConfig:
        self.to_ask[study] -= 1
        self._num_asked[study] += 1
        return self._record.ask(study)

    def learn(self, study: str) -> None:
        """It has its share whatever comes of it."""

    def steer(self, steering: Steering) -> None:
        asked = self._num_asked
        self.num_trials = {study: steering.num_trials(study, asked[study]) for study in asked}
        self.to_ask = {study: self.num_trials[study] - asked[study] for study in asked}

    def news(self) -> Mapping[str, int] | None:
        return None


class SharesByGain:
    """The next trial goes where most is expected of it, and a study ends of which little is."""

    def __init__(self, record: Record, steering: Steering) -> None:
        self._record = record
        self._studies: dict[str, StudyShare] = {}
        self.steer(steering)
        # A study may have ended here that a driver was killed before it could end.
        self._told: Mapping[str, int] = {}

    def next_studies(self) -> Sequence[StudyPlan]:
        names = {study.name for study in self._shares.next_studies()}
        return [study for study in self._record.plan.studies if study.name in names]

    def ask(self, study: str) -> TrialConfig:
        config = self._record.ask(study, num_requests=self._steering.num_requests)
        self.learn(study)
        return config

    def learn(self, study: str) -> None:
        self._judge([study])

    def steer(self, steering: Steering) -> None:
        self._steering = steering
        self._judge(study.name for study in self._record.plan.studies)
        self._told = self.num_trials

    def news(self) -> Mapping[str, int] | None:
        if self.num_trials == self._told:
            return None
        self._told = self.num_trials
        return self._told

    def _judge(self, studies: Iterable[str]) -> None:
        """Share what is left by what is stored of these now; those that end are told of."""
        for name in studies:
            study = share_of(self._record.plan, self._record, self._steering, name)
            if study.ends_now:
                ended = self._record.end_early(study, num_requests=self._steering.num_requests)
                logger.warning("%s: %s", name, ended.sentence)
                study = replace(study, ended=ended)
            self._studies[name] = study
        self._shares = Shares([*self._studies.values()])
        self.num_trials = self._shares.num_trials()
        self.to_ask = {s.name: self.num_trials[s.name] - s.num_asked for s in self._shares.studies}
