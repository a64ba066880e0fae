"""One Ray Tune run over all trials of a sweep, or over all runs of its finalists.

A Searcher hands out what a queue says is next, a TrialScheduler asks the queue after every report
whether to go on, and warm actors train. All state is in the record behind the queue; Tune's own
snapshots are never read.
"""

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.cluster import own_ray
from orchestrator.cluster.ray_watch import watched
from orchestrator.cluster.sharing import Share
from orchestrator.cluster.slots import Slots
from orchestrator.data.cache import DecodedSplit, ImageCache
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.precision import PrecisionChooser, choose_precision
from orchestrator.run.queue import WORKER_DEATHS_ALLOWED, Run, RunQueue
from orchestrator.run.ray.controller import QuietProgress, SweepScheduler, sweeps_controller
from orchestrator.run.ray.files import serve_driver_files
from orchestrator.run.ray.precision import on_a_worker, when_it_starts
from orchestrator.run.ray.side_by_side import SideBySide
from orchestrator.run.ray.start import start_ray
from orchestrator.run.ray.worker import WarmWorker, as_config, report_in, run_in
from orchestrator.support.stopping import MachineLost, ending_in_order, stop_requested
from orchestrator.training.context import TrialContext
from orchestrator.training.driver_files import DriverFiles

Answer = TypeVar("Answer")

MOST_SLOTS = 10_000
"""Tune's own bound, above any of ours."""


@dataclass(frozen=True)
class RayEngine:
    """See `Engine`."""

    slots: Slots
    address: str | None = None
    """Of a running cluster; None: Ray is started on this machine, for us alone."""
    worker: type[tune.Trainable] = WarmWorker
    """The actor that trains; made `with_parameters(context=...)`."""
    is_apart = True

    def precision_chooser(
        self, sweep: str, *, deadline: float | None, dry_run: bool
    ) -> PrecisionChooser:
        """On a cluster the workers are asked, not the machine of the driver."""
        if not self.address:
            return partial(choose_precision, num_slots=self.slots.num_slots)
        if dry_run:
            return when_it_starts
        return on_a_worker(self.slots, self.address, sweep, deadline=deadline)

    def start(self) -> None:
        start_ray(self.slots, self.address)

    def driver_files(
        self,
        plan: SweepPlan,
        decoded: Callable[[], Mapping[str, Mapping[str, DecodedSplit]]],
        *,
        cache: ImageCache,
        kept_below: Path,
    ) -> DriverFiles | None:
        """Carried by Ray, where workers may be on other machines."""
        if not self.address:
            return None
        start_ray(self.slots, self.address)
        return serve_driver_files(plan, decoded(), cache=cache, kept_below=kept_below)

    def run(
        self,
        queue: RunQueue,
        context: TrialContext,
        *,
        sweep: str,
        max_seconds: float | None = None,
    ) -> None:
        """As `Engine.run`; a signal or the end of the time is heeded within a second.

        As many run at a time as slots, or as the fair share of the cluster that other sweeps leave.
        """
        if queue.num_left == 0:
            return
        start_ray(self.slots, self.address)
        _run_tune(self, queue, context, sweep, max_seconds)


def _run_tune(
    engine: RayEngine,
    queue: RunQueue,
    context: TrialContext,
    sweep: str,
    max_seconds: float | None,
) -> None:
    slots = engine.slots
    share = Share(sweep, slots)
    share.look(num_left=lambda: queue.num_left, num_running=lambda: 0)
    side_by_side = SideBySide(slots, share, on_a_cluster=engine.address is not None)
    shared = _Shared(queue, side_by_side, silent_seconds=context.silent_seconds)
    with ending_in_order(), watched(shared.lose):
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(engine.worker, context=context),
                slots.ray_resources,
            ),
            tune_config=tune.TuneConfig(
                search_alg=_QueueSearcher(shared),
                scheduler=_QueueScheduler(shared),
                # How many there are and how many run at a time may change: the queue knows.
                num_samples=-1,
                max_concurrent_trials=MOST_SLOTS,
                reuse_actors=True,
                time_budget_s=max_seconds,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                stop=_StopInOrder(shared),
                storage_path=tempfile.mkdtemp(prefix="tune-", dir=own_ray.scratch_folder()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS_ALLOWED),
                # Our trials write their own checkpoints; Tune's would be a second, lossy truth.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[QuietProgress()],
            ),
        )
        try:
            with sweeps_controller():
                tuner.fit()
        finally:
            if not shared.is_lost:
                share.withdraw()
            if shared.failure is not None:
                raise shared.failure


@dataclass
class _Shared:
    """What searcher, scheduler and stopper know together."""

    queue: RunQueue
    side_by_side: SideBySide
    silent_seconds: float
    deaths: dict[str, str] = field(default_factory=dict)
    """Why the worker of a run died last."""
    heard: dict[str, float] = field(default_factory=dict)
    """When a run was heard of last, by the monotonic clock."""
    idle: list[Sequence[str]] = field(default_factory=list)
    """Tasks that each worker holds which waits for the next run."""
    failure: Exception | None = None
    """The error that the queue raised, after which nothing more is asked of it and the schedule
    ends in order."""

    def ask(self, call: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What the queue answers, or `otherwise` from its first failure on."""
        if self.failure is None:
            try:
                return call()
            except Exception as error:
                self.failure = error
        return otherwise

    @property
    def is_lost(self) -> bool:
        return isinstance(self.failure, MachineLost)

    def lose(self, error: MachineLost) -> None:
        """Ray has gone, and its workers with it: no trial is to blame."""
        self.failure = self.failure or error

    # Tune pickles searcher and scheduler into snapshots that we never read: not the queue.
    def __getstate__(self) -> dict[str, Any]:
        return {}


class _QueueSearcher(Searcher):
    def __init__(self, shared: _Shared) -> None:
        super().__init__()
        self.shared = shared

    def suggest(self, trial_id: str) -> Any:
        if len(self.shared.heard) >= self.shared.side_by_side.allowed:
            return None
        queue = self.shared.queue
        held = self.shared.idle.pop(0) if self.shared.idle else ()
        run: Run | Literal["finished"] | None = self.shared.ask(
            lambda: queue.next_run(trial_id, held), "finished"
        )
        if run == "finished":
            return Searcher.FINISHED
        if run is None:
            return None
        self.shared.heard[trial_id] = time.monotonic()
        return as_config(run)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        queue = self.shared.queue
        if error:
            reason = self.shared.deaths.get(trial_id, "it did not start")
            self.shared.ask(lambda: queue.worker_lost(trial_id, reason), None)
        queue.forget(trial_id)
        for kept in (self.shared.deaths, self.shared.heard):
            kept.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the record is what a sweep resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep is resumed from its record, not from a Tune snapshot")


class _QueueScheduler(SweepScheduler):
    def __init__(self, shared: _Shared) -> None:
        super().__init__()
        self.shared = shared

    def max_workers(self) -> int:
        return self.shared.side_by_side.max_workers

    def ray_is_gone(self) -> bool:
        return self.shared.is_lost

    def task_of(self, trial: Any) -> str:
        return run_in(trial.config).config.task

    def workers_idle(self, held: Sequence[Sequence[str]]) -> None:
        self.shared.idle = list(held)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Called by Tune in every step of its loop. Gives None: then Tune starts what is pending by
        itself."""
        queue, running = self.shared.queue, len(self.shared.heard)
        self.shared.side_by_side.look(
            wanted=self.shared.ask(lambda: queue.num_slots, None),
            num_left=lambda: running + self.shared.ask(lambda: queue.num_left, 0),
            num_running=lambda: sum(
                trial.status == "RUNNING" for trial in tune_controller.get_live_trials()
            ),
            is_idle=not running,
        )

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.shared.heard[trial.trial_id] = time.monotonic()
        queue = self.shared.queue
        ends = self.shared.ask(lambda: queue.reported(trial.trial_id, report_in(result)), True)
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune after every death of a worker, before the run is started again."""
        name, now = trial.trial_id, time.monotonic()
        silent = now - self.shared.heard.get(name, now)
        self.shared.heard[name] = now
        reason = _cause(Path(trial.error_file).read_text(errors="replace"))
        if silent >= self.shared.silent_seconds:
            reason = f"it finished no epoch within {self.shared.silent_seconds:.0f} s"
        self.shared.deaths[name] = reason
        queue = self.shared.queue
        self.shared.ask(lambda: queue.worker_died(name, reason), None)
        if reason == OUT_OF_MEMORY:
            run = run_in(trial.config)
            trial.config.update(as_config(replace(run, memory_share=run.memory_share / 2)))


class _StopInOrder(tune.Stopper):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return stop_requested() is not None or self._shared.failure is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


OUT_OF_MEMORY = "its machine ran out of memory"


def _cause(error: str) -> str:
    """Why an actor died, from the last of the errors that Tune collected."""
    last = error.rpartition("Failure #")[2]
    if "low on memory" in last or "OutOfMemory" in last:
        return OUT_OF_MEMORY
    if re.search(r"node (has|was|is) (died|dead|terminated|preempted)|node .*died", last):
        return "its machine was lost"
    return "its process was killed or crashed"
