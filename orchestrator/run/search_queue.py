"""The trials of the search: all studies in turn, each stopped by its own Optuna pruner."""

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.plan.plan import StudyPlan
from orchestrator.record.record import Record, TrialRecord
from orchestrator.record.steering import Steering, unsteered
from orchestrator.run.allocation import allocation_of
from orchestrator.run.queue import WORKER_DEATHS_ALLOWED, Failed, Finished, Report, Run, rank
from orchestrator.run.steering_watch import SteeringWatch
from orchestrator.training.config import TrialConfig
from orchestrator.training.facts import EpochRow
from orchestrator.training.trial import Trial

logger = logging.getLogger(__name__)

OF_RUNNING_TRIALS = (".checkpoint", ".part")
"""Files beside the tuned weights; what a worker was writing when it died is a `.part`."""

SAME_FAILURES = 5
"""After so many unexpected failures in a row, all for one reason, it is not the trials' fault."""


class Observer(Protocol):
    """Hears of what happened after it was recorded; must neither block nor raise."""

    def trial_started(self, trial: TrialRecord) -> None: ...
    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...
    def trial_frozen(self, trial: TrialRecord) -> None:
        """It leaves its slot, and starts again if it may go on, or else ends."""
        ...

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        """People want something else of the sweep, or studies share its trials otherwise: so many
        trials of each."""
        ...


@dataclass
class _Running:
    config: TrialConfig
    seconds_before: float
    """That workers spent on it before it was frozen last."""
    curve: list[EpochRow] = field(default_factory=list)
    ended: bool = False
    reported_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    """A trial that failed, perhaps only because of where it ran."""

    running: _Running
    reason: str
    facts: Mapping[str, Any]


class SearchQueue:
    """Hands out what is left of a sweep; whatever happens is in the record before it is told."""

    def __init__(
        self,
        record: Record,
        trials_folder: Path,
        observers: Sequence[Observer],
        watch: SteeringWatch | None = None,
    ) -> None:
        """`watch` hears what is asked of the sweep; None: it is run as it was planned."""
        self.record = record
        self._watch = watch
        self._trials_folder = trials_folder
        self._observers = observers
        self._running: dict[str, _Running] = {}
        self._interrupted = deque(record.interrupted())
        self._remove_old_checkpoints()
        self._suspects: list[_Suspect] = []
        self.stop_reason: str | None = None
        """Why nothing more is handed out, if so."""
        self._steering = watch.steering if watch else unsteered(record.plan)
        self._allocation = allocation_of(record, self._steering)
        self._tell_news()
        self._settle_frozen()

    @property
    def num_left(self) -> int:
        self._heed()
        to_ask = sum(self._allocation.to_ask.values())
        return len(self._interrupted) + self._num_that_may_go_on() + to_ask

    @property
    def num_slots(self) -> int | None:
        self._heed()
        return 0 if self._steering.paused else self._steering.slots

    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Run | Literal["finished"] | None:
        if self.stop_reason is not None:
            return "finished"
        if self.num_left == 0:
            return self._nothing_left()
        running, slots = len(self._running), self.num_slots
        config = self._choose(held) if slots is None or running < slots else None
        if config is None:
            return None
        study, number = config.study, config.number
        before = self.record.seconds_before(study, number)
        self._running[run_id] = _Running(config, before)
        if epoch := self.record.went_on_after(study, number):
            logger.info("%s #%d goes on after epoch %d", study, number, epoch)
        self._tell("trial_started", self.record.trial(study, number))
        files = str(self._trials_folder / study / str(number))
        return Run(Trial, config, files, goes_on_after=epoch)

    def _nothing_left(self) -> Literal["finished"] | None:
        """While trials run, more may be asked for."""
        if not all(running.ended for running in self._running.values()):
            return None
        if self._watch is not None:
            self._watch.look()
            if self.num_left:
                return None
        self._settle_suspects()
        self._settle_frozen()
        return None if self.num_left else "finished"

    def _heed(self) -> None:
        """Do from now on what people asked for meanwhile."""
        if self._watch is not None and self._watch.steering is not self._steering:
            self._steering = self._watch.steering
            self._allocation.steer(self._steering)
            self._tell("steered", self._steering, self._allocation.num_trials)
            self._settle_frozen()

    def _choose(self, held: Sequence[str]) -> TrialConfig | None:
        if self._interrupted:
            return self._interrupted.popleft()
        if to_go_on := self._to_go_on():
            study = self._nearest([self.record.plan.study(name) for name in to_go_on], held)
            return self.record.go_on(study.name, to_go_on[study.name])
        studies = self._allocation.next_studies()
        if not studies:
            return None  # frozen trials wait for what those that run will say
        config = self._allocation.ask(self._nearest(studies, held).name)
        self._tell_news()
        return config

    def _nearest(self, studies: Sequence[StudyPlan], held: Sequence[str]) -> StudyPlan:
        """The one that its worker begins soonest, then the one whose task fewest train."""
        on_task = Counter(running.config.task for running in self._running.values())
        return min(studies, key=lambda study: (rank(study.task, held), on_task[study.task]))

    def _to_go_on(self) -> dict[str, int]:
        """By study the first of the frozen trials that may go on, where there is one."""
        first = {
            study.name: self.record.first_to_go_on(study.name)
            for study in self.record.plan.studies
            if study.name not in self._steering.stopped
        }
        return {study: number for study, number in first.items() if number is not None}

    def _num_that_may_go_on(self) -> int:
        """The frozen trials of studies in which one may, or in which ranks may still change."""
        if not self.record.plan.pruner.freezes:
            return 0
        change = {run.config.study for run in self._running.values() if not run.ended}
        change |= {config.study for config in self._interrupted}
        change |= {study for study, left in self._allocation.to_ask.items() if left > 0}
        change |= self._to_go_on().keys()
        return sum(len(self.record.frozen(study)) for study in change - {*self._steering.stopped})

    def reported(self, run_id: str, report: Report) -> bool:
        running = self._running[run_id]
        study, number = running.config.study, running.config.number
        rows, end = list(report.rows), report.end
        if rows and rows[0]["epoch"] == 1:
            running.curve.clear()  # a trial whose worker died begins again
        # Nothing is left to prune of a trial that failed: a disk that was full after its last epoch
        # must not become a rung that it would not have had.
        stop_after = self.record.report(study, number, rows, finished=end is not None)
        if stop_after is not None:
            rows = [row for row in rows if row["epoch"] <= stop_after]
        running.curve += rows
        self._tell("trial_epochs", study, number, rows)
        facts = report.facts.stored()
        if running.seconds_before:
            facts["wall_seconds"] += running.seconds_before
        running.reported_at = time.monotonic()
        found = {"curve": running.curve, "facts": facts}
        match end:
            case _ if stop_after is not None and self.record.can_wait(study, number):
                self.record.freeze(study, number, **found)
                running.ended = True
                self._tell("trial_frozen", self.record.trial(study, number))
                self._settle_suspects()
                self._settle_frozen()
                return True
            case _ if stop_after is not None:
                self.record.prune(study, number, **found)
            case Failed(reason, "machine"):
                running.ended = True  # it stays running in the record, to be run again
                self.stop_reason = f"{study} #{number}: {reason}"
                return True
            case Failed(reason, "unexpected"):
                self._suspect(running, reason, facts)
                return True
            case Failed(reason, "config"):
                self.record.fail(study, number, reason=reason, **found)
            case Finished():
                self.record.complete(study, number, **found)
                self._keep_best(study)
            case None:
                return False
        self._ended(running)
        self._settle_suspects()  # where one trial can end, the others' failures are their own
        self._settle_frozen()
        return True

    def worker_died(self, run_id: str, reason: str) -> None:
        running = self._running[run_id]
        silent = time.monotonic() - running.reported_at
        running.reported_at = time.monotonic()
        logger.warning(
            "%s #%d: its worker died %.0f s after its last report (%s); "
            "it goes on from its last checkpoint, if that is left",
            running.config.study,
            running.config.number,
            silent,
            reason,
        )

    def worker_lost(self, run_id: str, reason: str) -> None:
        running = self._running[run_id]
        if not running.ended:
            deaths = WORKER_DEATHS_ALLOWED + 1
            self._suspect(running, f"its worker died {deaths} times, last: {reason}", {})

    def forget(self, run_id: str) -> None:
        self._running.pop(run_id, None)

    def _remove_old_checkpoints(self) -> None:
        """Remove the checkpoints of trials that ended just before their driver did."""
        kept = {(config.study, str(config.number)) for config in self._interrupted}
        for study in self.record.plan.studies:
            kept |= {(study.name, str(number)) for number in self.record.frozen(study.name)}
        for study in self.record.plan.studies:
            for path in (self._trials_folder / study.name).glob("*"):
                number = path.name.partition(".")[0]
                if path.suffix in OF_RUNNING_TRIALS and (study.name, number) not in kept:
                    path.unlink()

    def _suspect(self, running: _Running, reason: str, facts: Mapping[str, Any]) -> None:
        """Hold back a failure that may be the machine's: until we know, the trial is not failed."""
        if self._suspects and _same(reason) != _same(self._suspects[-1].reason):
            self._settle_suspects()
        running.ended = True
        self._suspects.append(_Suspect(running=running, reason=reason, facts=facts))
        if len(self._suspects) >= SAME_FAILURES and self.stop_reason is None:
            self.stop_reason = (
                f"{len(self._suspects)} trials in a row failed for the same reason, so that the "
                f"fault is not theirs: {reason}"
            )
        elif self.num_left == 0 and all(run.ended for run in self._running.values()):
            self._settle_suspects()

    def _settle_suspects(self) -> None:
        if self.stop_reason is not None:
            return  # they stay running in the record, to be run again
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            running = suspect.running
            self.record.fail(
                running.config.study,
                running.config.number,
                reason=suspect.reason,
                curve=running.curve,
                facts=suspect.facts,
            )
            self._ended(running)

    def _settle_frozen(self) -> None:
        """Prune the frozen trials of studies in which none can go on any more: all others ended and
        no rank will change, or people stopped the study."""
        if not self.record.plan.pruner.freezes or self.stop_reason is not None:
            return
        for study in (study.name for study in self.record.plan.studies):
            is_over = self._allocation.to_ask[study] <= 0 and self.record.only_frozen_left(study)
            if study in self._steering.stopped or (
                is_over and self.record.first_to_go_on(study) is None
            ):
                for number in self.record.frozen(study):
                    self.record.prune_frozen(study, number)
                    self._has_ended(study, number)

    def _ended(self, running: _Running) -> None:
        running.ended = True
        self._has_ended(running.config.study, running.config.number)

    def _has_ended(self, study: str, number: int) -> None:
        for path in (self._trials_folder / study).glob(f"{number}.*"):
            if path.suffix in OF_RUNNING_TRIALS:
                path.unlink(missing_ok=True)
        self._tell("trial_ended", self.record.trial(study, number))
        self._allocation.learn(study)
        self._tell_news()

    def _keep_best(self, study: str) -> None:
        """Keep the tuned weights of a study's best trial and remove those of the others."""
        best = self.record.best(study)
        running = {r.config.number for r in self._running.values() if r.config.study == study}
        for path in (self._trials_folder / study).glob("*.safetensors"):
            number = int(path.stem)
            if (best is None or number != best.number) and number not in running:
                path.unlink()

    def _tell_news(self) -> None:
        """What came of trials may change how many each study is to have."""
        if (num_trials := self._allocation.news()) is not None:
            self._tell("steered", self._steering, num_trials)

    def _tell(self, event: str, *arguments: Any) -> None:
        for observer in self._observers:
            getattr(observer, event)(*arguments)


def _same(reason: str) -> str:
    """What reasons have in common that differ by numbers."""
    return re.sub(r"\d+", "#", reason)
