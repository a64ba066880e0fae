"""The engine that trains in this process, one run after the other.

For a breakpoint inside a trial, for notebooks and tests, and for machines where Ray cannot start.
What is decided is what one slot of Ray decides. A crash takes the sweep along, as does a lack of
memory; `resume` goes on.
"""

import bdb
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.slots import Slots
from orchestrator.data.cache import DecodedSplit, ImageCache
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.precision import PrecisionChooser, choose_precision
from orchestrator.run.queue import Run, RunQueue
from orchestrator.run.worker_loop import WorkerLoop
from orchestrator.support.stopping import ending_in_order, stop_requested
from orchestrator.training.context import TrialContext

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""A queue that has nothing for now is asked again so soon."""


@dataclass(frozen=True)
class InProcess:
    """See `Engine`."""

    slots: Slots
    is_apart = False

    def precision_chooser(
        self, sweep: str, *, deadline: float | None, dry_run: bool
    ) -> PrecisionChooser:
        return choose_precision

    def start(self) -> None:
        """Nothing is apart from us."""

    def driver_files(
        self,
        plan: SweepPlan,
        decoded: Callable[[], Mapping[str, Mapping[str, DecodedSplit]]],
        *,
        cache: ImageCache,
        kept_below: Path,
    ) -> None:
        """The disk is our own."""

    def run(
        self,
        queue: RunQueue,
        context: TrialContext,
        *,
        sweep: str,
        max_seconds: float | None = None,
    ) -> None:
        """As `Engine.run`; a signal is heeded after the epoch that it came in.

        No run is ended for its silence: a person may be looking at it in a debugger.
        """
        if not queue.num_left:
            return
        ends_at = math.inf if max_seconds is None else time.monotonic() + max_seconds
        if (queue.num_slots or 1) > 1:
            logger.warning(
                "%d slots are asked for, and --engine local trains one trial after the other: "
                "`orchestrator resume` without it trains them side by side",
                queue.num_slots,
            )
        worker = WorkerLoop(context)
        held: list[str] = []
        with ending_in_order(), _torch_as_it_was():
            for run_id in map(str, itertools.count()):
                if _must_stop(ends_at):
                    return
                run = queue.next_run(run_id, held)
                if run == "finished":
                    return
                if run is None:  # it pauses
                    time.sleep(LOOK_SECONDS)
                    continue
                try:
                    if not _trained(worker, queue, run_id, run, ends_at):
                        return
                except bdb.BdbQuit:
                    logger.warning("the debugger was left, and with it the sweep")
                    return
                finally:
                    queue.forget(run_id)
                held = [run.config.task, *(task for task in held if task != run.config.task)]


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Afterwards the caller, as a notebook, has its threads, random numbers and GPU again."""
    import torch

    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(threads)
        if torch.cuda.is_initialized():  # a loop on a part of a GPU kept us to it
            torch.cuda.set_per_process_memory_fraction(1.0)


def _trained(worker: WorkerLoop, queue: RunQueue, run_id: str, run: Run, ends_at: float) -> bool:
    """Whether the run came to its end, rather than the time or the sweep."""
    worker.begin(run)
    try:
        while not queue.reported(run_id, worker.step()):
            if _must_stop(ends_at):
                return False
    finally:
        worker.close()
    return True


def _must_stop(ends_at: float) -> bool:
    return stop_requested() is not None or time.monotonic() >= ends_at
