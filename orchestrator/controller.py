"""Ray Tune's controller with what long sweeps need of it.

Tune's own ends a sweep when one worker ran out of memory, and keeps every trial that ended.
"""

from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.tune import tune as tune_module
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController


class SweepController(TuneController):
    """Tune's controller, which forgets what has ended."""

    def on_step_end(self) -> None:
        super().on_step_end()
        self._forget_ended()

    def _forget_ended(self) -> None:
        ended = self._stopped_trials | self._failed_trials
        if not ended:
            return
        # In place: Tune's callbacks hold the list. The last one stays, or Tune would look for its
        # snapshots at the end.
        kept = [trial for trial in self._trials[:-1] if trial not in ended]
        self._trials[:] = [*kept, *self._trials[-1:]]
        for trials in (self._stopped_trials, self._failed_trials, self._trials_to_cache):
            trials.difference_update(ended)


class ActorManager(RayActorManager):
    """Ray's own, to which every end of a worker is one.

    What Ray raises for a worker that its memory monitor killed is no RayActorError, for which Tune
    would end the whole sweep.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError | NodeDiedError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


class Forget(tune.Callback):
    """Tune keeps the last result of every trial, and statistics of every number in it."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for told in ("rows", "facts"):
            del result[told]


tune_controller.RayActorManager = ActorManager  # pyright: ignore[reportPrivateImportUsage]
tune_module.TuneController = SweepController  # pyright: ignore[reportPrivateImportUsage]
