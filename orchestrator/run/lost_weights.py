"""Tuned weights that are gone with the disk they were on, trained again.

The storage holds configuration and seed of every trial, so that the best of each study can be
trained a second time. Its record stays as it was.
"""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from orchestrator.record.record import Record, TrialRecord
from orchestrator.run.queue import Failed, Finished, Report, Run
from orchestrator.training.trial import Trial

logger = logging.getLogger(__name__)


class LostWeightsQueue:
    """A run for the best trial of every study whose tuned weights are not in the folder."""

    num_slots: int | None = None
    """Nobody is asked."""

    def __init__(self, record: Record, trials_folder: Path) -> None:
        self._record = record
        best = [record.best(study.name) for study in record.plan.studies]
        runs = [(trial, self._run(trial, trials_folder)) for trial in best if trial is not None]
        self._left = deque((trial, run) for trial, run in runs if not run.tensors.is_file())
        self._running: dict[str, TrialRecord] = {}

    @property
    def num_left(self) -> int:
        return len(self._left)

    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Run | Literal["finished"]:
        if not self._left:
            return "finished"
        trial, run = self._left.popleft()
        logger.warning(
            "%s #%d: its tuned weights are gone; it is trained again", trial.study, trial.number
        )
        self._running[run_id] = trial
        return run

    def reported(self, run_id: str, report: Report) -> bool:
        trial = self._running[run_id]
        where = f"{trial.study} #{trial.number}"
        if isinstance(report.end, Failed):
            logger.warning("%s: could not be trained again: %s", where, report.end.reason)
        if not isinstance(report.end, Finished):
            return report.end is not None
        found = report.rows[-1]["val_accuracy"]
        words = self._record.plan.objective(trial.study).words
        if found != trial.val_accuracy:
            logger.warning(
                "%s: trained again it has %s %s of %.4f, recorded is %.4f: another machine "
                "rounds differently",
                where,
                "an" if words[0] in "aeiou" else "a",
                words,
                found,
                trial.val_accuracy,
            )
        return True

    def worker_died(self, run_id: str, reason: str) -> None:
        trial = self._running[run_id]
        logger.warning("%s #%d: its worker died: %s", trial.study, trial.number, reason)

    def worker_lost(self, run_id: str, reason: str) -> None:
        trial = self._running[run_id]
        logger.warning("%s #%d: not trained again: %s", trial.study, trial.number, reason)

    def forget(self, run_id: str) -> None:
        self._running.pop(run_id, None)

    def _run(self, trial: TrialRecord, trials_folder: Path) -> Run:
        plan = self._record.plan
        config = plan.trial_config(trial.study, trial.number, trial.config, seed=trial.seed)
        return Run(Trial, config, str(trials_folder / trial.study / str(trial.number)))
