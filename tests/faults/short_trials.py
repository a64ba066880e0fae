"""A schedule of trials that last a moment, to see what Tune does with them.

    python short_trials.py --slots 2 --trials 20 [--tasks 3] [--kill-idle]

With --kill-idle the first worker that has nothing to do is killed, and then given a trial. Prints
what the queue heard, how many trials Tune remembered at most, and how many trials each worker ran
of each task.
"""

import argparse
import gc
import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator.cluster.slots import Slots
from orchestrator.run.queue import Finished, Report
from orchestrator.run.ray.engine import RayEngine
from orchestrator.run.ray.worker import as_result, run_in

IDLE_SECONDS = 2.0
LONG_SECONDS = 12.0


class MomentaryWorker(tune.Trainable):
    def setup(self, config: dict[str, Any], context: Any) -> None:
        self._run: Any = run_in(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run = run_in(new_config)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self._run.seconds)
        facts: Any = {"pid": os.getpid(), "task": self._run.config.task}
        return as_result(Report(rows=[], facts=facts, end=Finished()))


class ShortQueue:
    def __init__(self, num_trials: int, num_tasks: int, *, kill_idle: bool) -> None:
        self.num_left = num_trials
        self._left = Counter({str(n): num_trials // num_tasks for n in range(num_tasks)})
        self.by_worker: dict[int, Counter[str]] = defaultdict(Counter)
        self.ended: list[str] = []
        self.died: list[str] = []
        self.lost: list[str] = []
        self.most_remembered = 0
        """Of Tune's trials, in the memory of this process."""
        self._kill_idle = kill_idle
        self._may_go_on = 0.0
        self.num_slots = None

    def next_run(self, run_id: str, held: Sequence[str]) -> Any:
        if not self.num_left:
            return "finished"
        if time.monotonic() < self._may_go_on:
            return None
        self.num_left -= 1
        # The second keeps the other slot busy meanwhile, or Tune would wait for this one alone.
        is_second = self._kill_idle and not self.ended
        seconds = LONG_SECONDS if is_second and self.num_left % 2 == 0 else 0.01
        (most, _), *_ = self._left.most_common(1)
        task = next((task for task in held if self._left[task]), most)
        self._left[task] -= 1
        return SimpleNamespace(seconds=seconds, config=SimpleNamespace(task=task))

    def reported(self, run_id: str, report: Report) -> bool:
        facts: Any = report.facts
        self.ended.append(run_id)
        self.by_worker[facts["pid"]][facts["task"]] += 1
        gc.collect()
        trials = sum(isinstance(kept, Trial) for kept in gc.get_objects())
        self.most_remembered = max(self.most_remembered, trials)
        if self._kill_idle and len(self.ended) == 1:
            os.kill(facts["pid"], signal.SIGKILL)
            self._may_go_on = time.monotonic() + IDLE_SECONDS
        return True

    def worker_died(self, run_id: str, reason: str) -> None:
        self.died.append(run_id)

    def worker_lost(self, run_id: str, reason: str) -> None:
        self.lost.append(run_id)

    def forget(self, run_id: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--kill-idle", action="store_true")
    options = parser.parse_args()
    slots = Slots(num_slots=options.slots, cpu_threads=1, gpus_per_trial=0)
    queue = ShortQueue(options.trials, options.tasks, kill_idle=options.kill_idle)
    context: Any = SimpleNamespace(silent_seconds=600.0)
    RayEngine(slots, worker=MomentaryWorker).run(queue, context, sweep="short")
    heard = {"ended": len(queue.ended), "died": queue.died, "lost": queue.lost}
    of_workers = list(queue.by_worker.values())
    print(json.dumps({**heard, "remembered": queue.most_remembered, "of_workers": of_workers}))


if __name__ == "__main__":
    main()
