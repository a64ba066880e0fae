"""The loop of a warm worker: trains one run after the other, and keeps what they share.

Whoever drives it, a Ray actor or this very process, begins a run and asks for reports until its
queue says that the run ends.
"""

import bdb
import errno
import logging
import os
import time
import traceback
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from orchestrator.run.queue import Failed, Finished, Report, Run
from orchestrator.support.silence import Silence
from orchestrator.training.context import TrialContext
from orchestrator.training.device_memory import free_bytes, keep_to_part
from orchestrator.training.facts import EpochRow
from orchestrator.training.trial import Trial, TrialFailed
from orchestrator.training.worker_cache import WorkerCache

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""A worker reports after the first epoch that ends later than this, or at a rung."""


class WorkerLoop:
    """Keeps backbone, images and frozen features from run to run."""

    _run: Run
    _trial: Trial
    _epochs: Generator[EpochRow, None, None]

    def __init__(self, context: TrialContext, silence: Silence | None = None) -> None:
        """`silence` ends this process when a run makes no progress, for somebody to go on."""
        self._context = context
        self._silence = silence
        self._max_bytes = bytes_to_keep(context.device, context.gpu_share)
        self._cache = WorkerCache(self._max_bytes)

    def begin(self, run: Run) -> None:
        """The next run; nothing of it is done before the first `step`."""
        self._run = run
        self._cache.max_bytes = int(run.memory_share * self._max_bytes)
        self._trial = run.kind(run.config, self._context, self._cache, checkpoint=run.checkpoint)
        if run.goes_on_after and not self._trial.has_checkpoint:
            logger.warning(
                "%s #%d: its checkpoint is gone, the trial begins again instead of going on after "
                "epoch %d",
                run.config.study,
                run.config.number,
                run.goes_on_after,
            )
        self._epochs = self._trial.epochs()

    def step(self) -> Report:
        """Train until it is time to report."""
        rows: list[EpochRow] = []
        self._expect_progress()
        try:
            end = self._train(rows)
        except bdb.BdbQuit:
            raise  # a person has left the debugger; the configuration did not fail
        except TrialFailed as error:
            end = Failed(str(error), "config")
        except Exception as error:
            # Whatever is wrong with one configuration must not take worker or sweep along.
            at = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
            end = Failed(reason, "machine" if _is_of_the_machine(error) else "unexpected")
            if end.fault == "unexpected":  # a full disk is said in a line
                logger.exception("trial failed")
        finally:
            if self._silence is not None:
                self._silence.expect_none()
        facts = replace(self._trial.facts(), memory_share=self._run.memory_share)
        return Report(rows=rows, facts=facts, end=end)

    def close(self) -> None:
        """The run that was begun last goes no further."""
        self._epochs.close()

    def _train(self, rows: list[EpochRow]) -> Finished | None:
        """Appends a row for each epoch."""
        report_at = time.monotonic() + REPORT_SECONDS
        for row in self._epochs:
            rows.append(row)
            self._expect_progress()
            # After the last epoch nothing is left to prune: go on to the end.
            is_last = row["epoch"] == self._trial.num_epochs
            is_time = time.monotonic() > report_at
            if not is_last and (self._context.pruner.asked_at(int(row["epoch"])) or is_time):
                return None
        self._trial.save(self._run.tensors)
        return Finished()

    def _expect_progress(self) -> None:
        if self._silence is not None:
            self._silence.expect_progress()


def _is_of_the_machine(error: Exception) -> bool:
    """Whether no configuration could have been trained here: the disk is full or read-only."""
    # Libraries that write files themselves keep the words, not the number.
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EROFS))


def bytes_to_keep(device: str, gpu_share: float = 1.0) -> int:
    """Half of the free memory of the worker's part of the device, or of the machine's."""
    if device != "cpu":
        keep_to_part(gpu_share)
        return free_bytes(gpu_share) // 2
    import psutil

    share = psutil.virtual_memory().available // (2 * max(1, len(os.sched_getaffinity(0))))
    return min(share, 8 * 2**30)
