"""A driver of a sweep whose trials only last: all of it is real but what is trained.

    python steered_driver.py FOLDER --engine local|ray --slots 2 --seconds 0.1 [--max-seconds 60]

`--seconds` is for an epoch. Prints how many trials ran side by side at most while it ran, and how
the engine left the queue.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from plans import EPOCHS, curve_to, trial_facts

from orchestrator.cluster.slots import Slots
from orchestrator.plan.plan import load_plan
from orchestrator.record.owner import owned
from orchestrator.record.record import open_record
from orchestrator.run.in_process import InProcess
from orchestrator.run.queue import Finished, Report, Run
from orchestrator.run.search_queue import SearchQueue
from orchestrator.run.steering_watch import SteeringWatch

SECONDS = 0.0


class LastingTrial:
    """For the engine of this process."""

    num_epochs = EPOCHS

    def __init__(self, config: Any, context: Any, worker_cache: Any, *, checkpoint: Path) -> None:
        """Takes what a trial takes."""

    def epochs(self) -> Iterator[dict[str, float]]:
        for row in curve_to(0.5, EPOCHS):
            time.sleep(SECONDS)
            yield row

    def facts(self) -> Any:
        return trial_facts([])

    def save(self, path: Path) -> None:
        """Keeps nothing."""


class LocalQueue(SearchQueue):
    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Any:
        run = super().next_run(run_id, held)
        kind: Any = LastingTrial
        return replace(run, kind=kind) if isinstance(run, Run) else run


class RayQueue(SearchQueue):
    """Exchanges with a worker only what needs no code of ours to be read there."""

    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Any:
        run = super().next_run(run_id, held)
        if not isinstance(run, Run):
            return run
        return SimpleNamespace(config=SimpleNamespace(task=run.config.task), seconds=SECONDS)

    def reported(self, run_id: str, report: Any) -> bool:
        row = curve_to(0.5, EPOCHS)[report.epoch - 1]
        end = Finished() if report.epoch == EPOCHS else None
        return super().reported(run_id, Report(rows=[row], facts=trial_facts([]), end=end))


def ray_engine(slots: Slots) -> Any:
    from ray import tune

    from orchestrator.run.ray.engine import RayEngine

    class LastingWorker(tune.Trainable):
        def setup(self, config: dict[str, Any], context: Any) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            (self._run,) = new_config["run"]
            self._epoch = 0
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(self._run.seconds)
            self._epoch += 1
            return {"report": SimpleNamespace(epoch=self._epoch)}

    return RayEngine(slots, worker=LastingWorker)


def main() -> None:
    global SECONDS
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=("local", "ray"), required=True)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--max-seconds", type=float)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    SECONDS = options.seconds
    slots = Slots(num_slots=options.slots, cpu_threads=1, gpus_per_trial=0)
    engine = InProcess(slots) if options.engine == "local" else ray_engine(slots)
    record = open_record(load_plan(options.folder), options.folder)
    context: Any = SimpleNamespace(
        device="cpu",
        gpu_share=1.0,
        pruner=SimpleNamespace(asked_at=lambda epoch: True),
        silent_seconds=600.0,
    )
    with owned(options.folder), SteeringWatch(record, num_slots=options.slots) as watch:
        kind = LocalQueue if options.engine == "local" else RayQueue
        queue = kind(record, options.folder / "trials", [], watch)
        began, computed = time.monotonic(), time.process_time()
        engine.run(queue, context, sweep="steered", max_seconds=options.max_seconds)
        told = {
            "left": queue.num_left,
            "busy": (time.process_time() - computed) / (time.monotonic() - began),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
