"""How far a sweep is: counts, best values and time left, kept up to date by events."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import FINISHED, FROZEN_STATE, Record, TrialRecord, best_of
from orchestrator.record.steering import Steering
from orchestrator.report.time_left import Pace, Running
from orchestrator.support.counted import counted
from orchestrator.support.durations import duration
from orchestrator.support.shown_values import config_text
from orchestrator.training.facts import EpochRow


@dataclass(kw_only=True)
class StudyProgress:
    """Counts of one study."""

    name: str
    task: str
    space: str
    planned: int
    running: dict[int, int] = field(default_factory=dict)
    """Epochs done, by number of the trial."""
    frozen: set[int] = field(default_factory=set)
    """Numbers of the trials that wait."""
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    best: TrialRecord | None = None
    newest: int = 0
    """Grows with whatever ends last in the sweep; 0 before anything ended."""

    @property
    def finished(self) -> int:
        return self.complete + self.pruned + self.failed

    @property
    def not_begun(self) -> int:
        return max(0, self.planned - self.finished - len(self.running) - len(self.frozen))


class Progress:
    """An observer of the schedule that a view can read from another thread."""

    def __init__(self, plan: SweepPlan, record: Record) -> None:
        self.plan = plan
        self.lock = threading.Lock()
        self.studies = {
            study.name: StudyProgress(
                name=study.name, task=study.task, space=study.space, planned=study.num_trials
            )
            for study in plan.studies
        }
        self.paused_text = ""
        """Who paused it, and when, while it is."""
        self.newest_best: TrialRecord | None = None
        """The best of its study that was found last."""
        self.peak_gpu_mib = 0.0
        """The most memory that a trial took of a GPU; 0 where none ran on one."""
        self._pace = Pace(plan)
        self._worker_seconds = 0.0
        """Of trials that ended or were frozen since we watch."""
        self._ends = 0
        self._started = time.monotonic()
        self._first_trial_started: float | None = None
        for trial in record.each_trial():
            if trial.state == FROZEN_STATE:
                self._wait(trial)
            self._count(trial)
        self._worker_seconds = 0.0

    @classmethod
    def seen(cls, plan: SweepPlan, record: Record, running: Running) -> "Progress":
        """Of a sweep that another process runs, as it is now."""
        progress = cls(plan, record)
        for study, trials in running.items():
            progress.studies[study].running.update(trials)
        return progress

    @property
    def planned(self) -> int:
        return self._sum("planned")

    @property
    def finished(self) -> int:
        return self._sum("finished")

    @property
    def complete(self) -> int:
        return self._sum("complete")

    @property
    def pruned(self) -> int:
        return self._sum("pruned")

    @property
    def failed(self) -> int:
        return self._sum("failed")

    @property
    def num_running(self) -> int:
        return sum(len(study.running) for study in self.studies.values())

    @property
    def frozen(self) -> int:
        return sum(len(study.frozen) for study in self.studies.values())

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._started

    def seconds_left(self) -> float | None:
        """By what trials took so far; None before one of each method has ended."""
        if self._first_trial_started is None or self.paused_text:
            return None
        return self._pace.seconds_left(
            {study.name: study.running for study in self.studies.values()},
            {study.name: study.not_begun for study in self.studies.values()},
            worker_seconds=self._worker_seconds,
            in_seconds=time.monotonic() - self._first_trial_started,
        )

    def trial_started(self, trial: TrialRecord) -> None:
        with self.lock:
            if self._first_trial_started is None:
                self._first_trial_started = time.monotonic()
            study = self.studies[trial.study]
            study.frozen.discard(trial.number)
            study.running[trial.number] = self._pace.trial_started(trial.study, trial.number)

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        with self.lock:
            if rows and number in self.studies[study].running:
                self.studies[study].running[number] = int(rows[-1]["epoch"])

    def trial_frozen(self, trial: TrialRecord) -> None:
        with self.lock:
            self.studies[trial.study].running.pop(trial.number, None)
            self._wait(trial)

    def trial_ended(self, trial: TrialRecord) -> None:
        with self.lock:
            self.studies[trial.study].running.pop(trial.number, None)
            self.studies[trial.study].frozen.discard(trial.number)
            self._count(trial)

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        with self.lock:
            self.paused_text = steering.paused_text
            for study, number in num_trials.items():
                self.studies[study].planned = number

    def line(self, trial: TrialRecord) -> str:
        """What a log says of a trial that has ended."""
        best = self.studies[trial.study].best
        unit = self.plan.objective(trial.study).unit
        score = "" if trial.val_accuracy is None else f" val {points(trial)} {unit}"
        epochs = f" after {counted(len(trial.curve), 'epoch')}" if trial.curve else ""
        note = f": {trial.failure}" if trial.failure else ""
        told = ""
        if best is not None and best.number == trial.number:
            told = f" (the best so far: {self.searched(best)})"
        elif best is not None:
            told = f" (best {points(best)} {unit} by #{best.number})"
        left = self.seconds_left()
        return (
            f"[{duration(self.elapsed_seconds)}] {trial.study} #{trial.number} {trial.state}"
            f"{epochs}{score}{note}{told}"
            f" · {self.finished}/{self.planned} trials"
            f"{f', about {duration(left)} left' if left else ''}"
        )

    def searched(self, trial: TrialRecord) -> str:
        """The values of a trial that were searched: `num_tokens 50, lr 2.5`."""
        space = self.plan.parsed_spaces[self.studies[trial.study].space]
        return config_text(space.searched(trial.config)) or "nothing is searched"

    def _wait(self, trial: TrialRecord) -> None:
        self.studies[trial.study].frozen.add(trial.number)
        self._count_work(trial)

    def _count_work(self, trial: TrialRecord) -> None:
        """What a trial that leaves its slot took."""
        self._worker_seconds += self._pace.trial_ended(trial)
        if trial.facts.get("device", "cpu") != "cpu":
            self.peak_gpu_mib = max(self.peak_gpu_mib, trial.facts.get("peak_memory_mib", 0.0))

    def _count(self, trial: TrialRecord) -> None:
        if trial.state not in FINISHED:
            return
        study = self.studies[trial.study]
        setattr(study, trial.state, getattr(study, trial.state) + 1)
        self._ends += 1
        study.newest = self._ends
        self._count_work(trial)
        before = study.best
        study.best = best_of([t for t in (before, trial) if t is not None])
        if study.best is not before:
            self.newest_best = study.best

    def _sum(self, name: str) -> int:
        return sum(getattr(study, name) for study in self.studies.values())


def points(trial: TrialRecord) -> str:
    """Its score, times 100."""
    return f"{100 * (trial.val_accuracy or 0):.1f}"
