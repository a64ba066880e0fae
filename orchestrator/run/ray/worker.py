"""A warm worker: trains one run after the other, and keeps what they share."""

import errno
import logging
import os
import time
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.record.record import EpochRow
from orchestrator.run.search_queue import Run
from orchestrator.support.silence import Silence
from orchestrator.training.trial import TrialContext, TrialFailed
from orchestrator.training.worker_cache import WorkerCache

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""A worker reports after the first epoch that ends later than this, or at a rung."""


class WarmWorker(tune.Trainable):
    """An actor that keeps backbone, images and frozen features from trial to trial."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]  # with_parameters adds context
        self, config: dict[str, Any], context: TrialContext
    ) -> None:
        self._context = context
        self._silence = Silence(context.silent_seconds)
        self._max_bytes = resident_bytes(context.device)
        self._worker_cache = WorkerCache(self._max_bytes)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        (self._run,) = config["run"]
        run: Run = self._run
        self._worker_cache.max_bytes = int(run.memory_share * self._max_bytes)
        self._trial = run.kind(
            run.config, self._context, self._worker_cache, checkpoint=run.checkpoint
        )
        self._epochs = self._trial.epochs()

    def step(self) -> dict[str, Any]:
        """Train until it is time to report."""
        rows: list[EpochRow] = []
        failure, unexpected, blameless, finished = "", False, False, False
        report_at = time.monotonic() + REPORT_SECONDS
        self._silence.expect_progress()
        try:
            for row in self._epochs:
                rows.append(row)
                self._silence.expect_progress()
                # After the last epoch nothing is left to prune: go on to the end.
                is_last = row["epoch"] == self._trial.num_epochs
                if not is_last and (
                    self._context.pruner.asked_at(int(row["epoch"])) or time.monotonic() > report_at
                ):
                    break
            else:
                self._trial.save(self._run.tensors)
                finished = True
        except TrialFailed as error:
            failure = str(error)
        except Exception as error:
            # Whatever is wrong with one configuration must not take worker or sweep along.
            at = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
            unexpected, blameless = True, _is_of_the_machine(error)
            if not blameless:  # a full disk is said in a line
                logger.exception("trial failed")
        finally:
            self._silence.expect_none()
        return {
            "rows": rows,
            "finished": finished,
            "failure": failure,
            "unexpected": unexpected,
            "blameless": blameless,
            "facts": {**self._trial.facts(), "memory_share": self._run.memory_share},
        }

    def cleanup(self) -> None:
        self._epochs.close()


def _is_of_the_machine(error: Exception) -> bool:
    """Whether no configuration could have been trained here: the disk is full or read-only."""
    # Libraries that write files themselves keep the words, not the number.
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EROFS))


def resident_bytes(device: str) -> int:
    """Half of the free memory of the device, or of this worker's share of the machine's."""
    if device != "cpu":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return free // 2
    import psutil

    share = psutil.virtual_memory().available // (2 * max(1, len(os.sched_getaffinity(0))))
    return min(share, 8 * 2**30)
