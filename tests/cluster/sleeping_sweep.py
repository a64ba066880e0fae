"""A sweep whose trials sleep: what the schedule does with a cluster, without what trains.

    python sleeping_sweep.py --name A --trials 10 --seconds 1 --slots 4 --cpus 1 --gpu-kind L4

Everything between Ray and the queue is real. One line for each trial that ended: when it began,
when it ended, and on which node of Ray.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune

from orchestrator.cluster import sharing
from orchestrator.cluster.slots import Slots
from orchestrator.run.queue import Finished, Report
from orchestrator.run.ray.engine import RayEngine
from orchestrator.run.ray.worker import as_result


class SleepingWorker(tune.Trainable):
    def setup(self, config: dict[str, Any], context: Any) -> None:
        self._context = context

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        began = time.time()
        time.sleep(self._context.seconds)
        node = ray.get_runtime_context().get_node_id()
        facts: Any = (began, time.time(), node)
        return as_result(Report(rows=[], facts=facts, end=Finished()))


class SleepingQueue:
    num_slots = None

    def __init__(self, num_trials: int) -> None:
        self.num_left = num_trials

    def next_run(self, run_id: str, held: Sequence[str]) -> Any:
        if not self.num_left:
            return "finished"
        self.num_left -= 1
        return SimpleNamespace(config=SimpleNamespace(task="any"))

    def reported(self, run_id: str, report: Report) -> bool:
        print(json.dumps(report.facts), flush=True)
        return True

    def worker_died(self, run_id: str, reason: str) -> None:
        raise AssertionError(f"a worker died: {reason}")

    def worker_lost(self, run_id: str, reason: str) -> None:
        raise AssertionError(f"a trial was given up: {reason}")

    def forget(self, run_id: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--gpu-kind")
    options = parser.parse_args()
    slots = Slots(
        num_slots=options.slots,
        cpu_threads=options.cpus,
        gpus_per_trial=1.0 if options.gpu_kind else 0.0,
        gpu_kind=options.gpu_kind,
    )
    sharing.PATIENCE_SECONDS = 4.0
    engine = RayEngine(slots, os.environ["RAY_ADDRESS"], worker=SleepingWorker)
    context: Any = SimpleNamespace(silent_seconds=600.0, seconds=options.seconds)
    engine.run(SleepingQueue(options.trials), context, sweep=options.name)


if __name__ == "__main__":
    main()
