"""How far a sweep is: counts, best values and time left, kept up to date by events."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import FINISHED, Record, TrialRecord, best_of
from orchestrator.training.facts import EpochRow


def duration(seconds: float) -> str:
    """`2:05` or `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(kw_only=True)
class StudyProgress:
    """Counts of one study."""

    name: str
    planned: int
    running: dict[int, int] = field(default_factory=dict)
    """Epochs done, by number of the trial."""
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    best: TrialRecord | None = None

    @property
    def finished(self) -> int:
        return self.complete + self.pruned + self.failed


class Progress:
    """An observer of the schedule that a view can read from another thread."""

    def __init__(self, plan: SweepPlan, record: Record) -> None:
        self.plan = plan
        self.lock = threading.Lock()
        self.studies = {
            study.name: StudyProgress(name=study.name, planned=study.num_trials)
            for study in plan.studies
        }
        self._started = time.monotonic()
        for trial in record.each_trial():
            self._count(trial)
        self._finished_before = self.finished

    @property
    def finished(self) -> int:
        return sum(study.finished for study in self.studies.values())

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._started

    def seconds_left(self) -> float | None:
        """By the mean pace so far; None until a few trials ended."""
        done = self.finished - self._finished_before
        if done < 3:
            return None
        return self.elapsed_seconds / done * (self.plan.num_trials - self.finished)

    def trial_started(self, trial: TrialRecord) -> None:
        with self.lock:
            self.studies[trial.study].running[trial.number] = 0

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        with self.lock:
            if rows and number in self.studies[study].running:
                self.studies[study].running[number] = int(rows[-1]["epoch"])

    def trial_ended(self, trial: TrialRecord) -> None:
        with self.lock:
            self.studies[trial.study].running.pop(trial.number, None)
            self._count(trial)

    def line(self, trial: TrialRecord) -> str:
        """What a log says of a trial that has ended."""
        best = self.studies[trial.study].best
        unit = self.plan.objective(trial.study).unit
        score = "" if trial.val_accuracy is None else f" val {points(trial)} {unit}"
        epochs = f" after {len(trial.curve)} epochs" if trial.curve else ""
        note = f": {trial.failure}" if trial.failure else ""
        left = self.seconds_left()
        return (
            f"[{duration(self.elapsed_seconds)}] {trial.study} #{trial.number} {trial.state}"
            f"{epochs}{score}{note}"
            f"{f' (best {points(best)} % by #{best.number})' if best else ''}"
            f" · {self.finished}/{self.plan.num_trials} trials"
            f"{f', about {duration(left)} left' if left is not None else ''}"
        )

    def _count(self, trial: TrialRecord) -> None:
        study = self.studies[trial.study]
        if trial.state in FINISHED:
            setattr(study, trial.state, getattr(study, trial.state) + 1)
        study.best = best_of([t for t in (study.best, trial) if t is not None])


def points(trial: TrialRecord) -> str:
    """Its score, times 100."""
    return f"{100 * (trial.val_accuracy or 0):.1f}"
