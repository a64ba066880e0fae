"""Ray Tune's controller with what long sweeps, and sweeps beside each other, need of it.

Tune's own ends a sweep when one worker ran out of memory, gives up a trial whose worker died before
it began, keeps every trial that ended, keeps an idle worker that another sweep could use, and does
not say for which worker a trial is drawn.

Hardly any of it can be reached by what Tune promises. What is overridden and read here stands in
`RELIES_ON`, is compared with the Ray that is installed before a schedule begins, and takes the
place of Tune's own only while a schedule of ours runs.
"""

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import ray
from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution._internal import RayActorManager, TrackedActor
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.tune import tune as tune_module
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

from orchestrator.cluster.ray_private import TESTED
from orchestrator.support.private_names import VALUE, check, replaced

_CONTROLLER = "ray.tune.execution.tune_controller.TuneController"

RELIES_ON = {
    "ray.air.execution._internal.RayActorManager.__init__": "(self, resource_manager)",
    "ray.air.execution._internal.RayActorManager._actor_task_failed": (
        "(self, tracked_actor_task, exception)"
    ),
    "ray.air.execution._internal.RayActorManager.next": "(self, timeout)",
    "ray.air.execution._internal.RayActorManager.num_total_actors": VALUE,
    "ray.air.execution._internal.TrackedActor": VALUE,
    "ray.tune.tune.TuneController": VALUE,
    "ray.tune.utils.object_cache._ObjectCache()._cached_objects": VALUE,
    "ray.tune.utils.object_cache._ObjectCache.num_cached_objects": VALUE,
    f"{_CONTROLLER}.__init__(resource_manager_factory)": VALUE,
    f"{_CONTROLLER}.__getstate__": "(self)",
    f"{_CONTROLLER}._cleanup_cached_actors": "(self, force_all)",
    f"{_CONTROLLER}._maybe_cache_trial_actor": "(self, trial)",
    f"{_CONTROLLER}._trial_task_failure": "(self, trial, exception)",
    f"{_CONTROLLER}._update_trial_queue": "(self, blocking, timeout)",
    f"{_CONTROLLER}.cleanup": "(self)",
    f"{_CONTROLLER}.on_step_begin": "(self)",
    f"{_CONTROLLER}.on_step_end": "(self)",
    **{
        f"{_CONTROLLER}().{kept}": VALUE
        for kept in (
            *("_actor_cache", "_actor_manager", "_actor_to_trial", "_trial_to_actor"),
            *("_scheduler_alg", "_trials", "_live_trials", "_trials_to_cache"),
            *("_stopped_trials", "_failed_trials", "_resetting_trials"),
        )
    },
}

OPTIONS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they write files that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # nor does anybody read its snapshots
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own
}
"""What Tune takes from the environment only; what the user has set there stays."""


@functools.cache
def _check_tune() -> None:
    check("ray", ray.__version__, TESTED, RELIES_ON)


@contextlib.contextmanager
def sweeps_controller() -> Iterator[None]:
    """While it is entered, a Tune run is one of a sweep; ValueError where this Ray is another.

    `tune.run` has no option for it. Whoever else uses Tune in this process keeps Tune's own.
    """
    _check_tune()
    ours = {name: value for name, value in OPTIONS.items() if name not in os.environ}
    with replaced(tune_module, "TuneController", SweepController):
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                os.environ.pop(name, None)


class SweepScheduler(FIFOScheduler):
    """Knows how many workers there may be, and what a worker keeps of a trial."""

    def max_workers(self) -> int:
        raise NotImplementedError

    def task_of(self, trial: Trial) -> str:
        """What the worker of a trial holds afterwards, and the next trial may want."""
        raise NotImplementedError

    def workers_idle(self, held: Sequence[Sequence[str]]) -> None:
        """Told before trials are drawn: what each idle worker holds, the latest first."""
        raise NotImplementedError

    def ray_is_gone(self) -> bool:
        """Whether whoever asks Ray for something would wait in vain."""
        raise NotImplementedError


class SweepController(TuneController):
    """Forgets what has ended, gives back workers it may not keep, knows what each worker holds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._held: WeakKeyDictionary[TrackedActor, list[str]] = WeakKeyDictionary()
        """Tasks that a worker trained, the latest first."""
        resources = PlacementGroupResourceManager()
        super().__init__(*args, resource_manager_factory=lambda: resources, **options)
        self._actor_manager = ActorManager(resource_manager=resources)

    @property
    def _sweep_scheduler(self) -> SweepScheduler:
        scheduler = self._scheduler_alg
        assert isinstance(scheduler, SweepScheduler), "a sweep brings its own scheduler"
        return scheduler

    def on_step_begin(self) -> None:
        super().on_step_begin()
        # Trials that are drawn now are given to them in this order.
        idle: Any = itertools.chain.from_iterable(self._actor_cache._cached_objects.values())
        self._sweep_scheduler.workers_idle([self._held.get(worker, []) for worker in idle])

    def _update_trial_queue(self, blocking: bool = False, timeout: int = 600) -> bool:
        """Where nothing runs, as in a pause, Tune would wait here for ten minutes and heed neither
        a signal nor the end of the time."""
        return super()._update_trial_queue(blocking=False, timeout=timeout)

    def on_step_end(self) -> None:
        super().on_step_end()
        self._forget_ended()
        idle = self._actor_cache.num_cached_objects
        if idle and len(self._actor_to_trial) + idle > self._sweep_scheduler.max_workers():
            self._cleanup_cached_actors(force_all=True)

    def cleanup(self) -> None:
        if not self._sweep_scheduler.ray_is_gone():
            super().cleanup()

    def _maybe_cache_trial_actor(self, trial: Trial) -> bool:
        worker = self._trial_to_actor.get(trial)
        if worker is not None:
            task = self._sweep_scheduler.task_of(trial)
            others = [held for held in self._held.get(worker, []) if held != task]
            self._held[worker] = [task, *others]
        return super()._maybe_cache_trial_actor(trial)

    def __getstate__(self) -> dict[str, Any]:
        """For snapshots that nobody reads."""
        return {name: kept for name, kept in super().__getstate__().items() if name != "_held"}

    def _forget_ended(self) -> None:
        ended = self._stopped_trials | self._failed_trials
        if not ended:
            return
        # In place: Tune's callbacks hold the list. The last one stays, or Tune would look for its
        # snapshots at the end.
        older = [trial for trial in self._trials[:-1] if not trial.is_finished()]
        self._trials[:] = [*older, *self._trials[-1:]]
        for trials in (
            self._stopped_trials,
            self._failed_trials,
            self._live_trials,
            self._trials_to_cache,
        ):
            trials.difference_update(ended)

    def _trial_task_failure(self, trial: Trial, exception: Exception) -> None:
        """Called by Tune, twice where an idle worker had died before it was to begin this trial.

        The first time the trial is put back to go again; for the second, Tune would give it up.
        """
        self._resetting_trials.discard(trial)
        if isinstance(exception, RayActorError) and trial.status == Trial.PENDING:
            return
        super()._trial_task_failure(trial, exception)


class ActorManager(RayActorManager):
    """Ray's own, to which every end of a worker is one.

    What Ray raises for a worker that its memory monitor killed is no RayActorError, for which Tune
    would end the whole sweep.
    """

    def next(self, timeout: float | None = None) -> bool:
        """In a pause there is no worker: Ray's would return at once, and Tune ask again and again,
        and complain of a lack of resources."""
        heard = super().next(timeout)
        if heard or self.num_total_actors:
            return heard
        time.sleep(timeout or 0)
        return True

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError | NodeDiedError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


class QuietProgress(TrialProgressCallback):
    """Stands in for Tune's own, which keeps every trial to print what we say ourselves."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune keeps the last result of every trial: not what is in our record by now."""
        del result["report"]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints nothing."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints nothing."""
