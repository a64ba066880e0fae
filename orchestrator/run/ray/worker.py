"""The worker's loop as an actor of Ray Tune, and how runs and reports cross Tune untouched."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from orchestrator.run.queue import Report, Run
from orchestrator.run.worker_loop import WorkerLoop
from orchestrator.support.silence import Silence
from orchestrator.training.context import TrialContext


class WarmWorker(tune.Trainable):
    """An actor that trains one run after the other."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]  # with_parameters adds context
        self, config: dict[str, Any], context: TrialContext
    ) -> None:
        self._loop = WorkerLoop(context, Silence(context.silent_seconds))
        self._loop.begin(run_in(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._loop.begin(run_in(new_config))
        return True

    def step(self) -> dict[str, Any]:
        return as_result(self._loop.step())

    def cleanup(self) -> None:
        self._loop.close()


def as_config(run: Run) -> dict[str, Any]:
    # In a list, since Tune would take the values of a plain dictionary for a space to search.
    return {"run": [run]}


def run_in(config: Mapping[str, Any]) -> Run:
    (run,) = config["run"]
    return run


def as_result(report: Report) -> dict[str, Any]:
    # As one object, since Tune would flatten a dictionary.
    return {"report": report}


def report_in(result: Mapping[str, Any]) -> Report:
    return result["report"]
