"""A schedule of trials that last a moment, to see what Tune does with them.

    python short_trials.py --slots 2 --trials 20 [--kill-idle]

With --kill-idle the first worker that has nothing to do is killed, and then given a trial. Prints
what the ledger heard, and how many trials Tune remembered at most.
"""

import argparse
import gc
import json
import os
import signal
import time
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator import schedule
from orchestrator.slots import Slots

IDLE_SECONDS = 2.0
LONG_SECONDS = 12.0


class MomentaryWorker(tune.Trainable):
    def setup(self, config: dict[str, Any], context: Any) -> None:
        (self._seconds,) = config["run"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        (self._seconds,) = new_config["run"]
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self._seconds)
        return {"rows": [], "facts": {"pid": os.getpid()}}


class Ledger:
    def __init__(self, num_trials: int, *, kill_idle: bool) -> None:
        self.num_left = num_trials
        self.ended: list[str] = []
        self.died: list[str] = []
        self.lost: list[str] = []
        self.most_remembered = 0
        """Of Tune's trials, in the memory of this process."""
        self._kill_idle = kill_idle
        self._may_go_on = 0.0

    def next_run(self, tune_id: str) -> Any:
        if not self.num_left:
            return "finished"
        if time.monotonic() < self._may_go_on:
            return None
        self.num_left -= 1
        # The second keeps the other slot busy meanwhile, or Tune would wait for this one alone.
        is_second = self._kill_idle and not self.ended
        return LONG_SECONDS if is_second and self.num_left % 2 == 0 else 0.01

    def reported(self, tune_id: str, result: dict[str, Any]) -> bool:
        self.ended.append(tune_id)
        gc.collect()
        trials = sum(isinstance(kept, Trial) for kept in gc.get_objects())
        self.most_remembered = max(self.most_remembered, trials)
        if self._kill_idle and len(self.ended) == 1:
            os.kill(result["facts/pid"], signal.SIGKILL)
            self._may_go_on = time.monotonic() + IDLE_SECONDS
        return True

    def worker_died(self, tune_id: str, reason: str) -> None:
        self.died.append(tune_id)

    def worker_lost(self, tune_id: str, reason: str) -> None:
        self.lost.append(tune_id)

    def forget(self, tune_id: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--kill-idle", action="store_true")
    options = parser.parse_args()
    slots = Slots(num_slots=options.slots, cpu_threads=1, gpus_per_trial=0)
    schedule.start_ray(slots, None)
    schedule.WarmWorker = MomentaryWorker  # pyright: ignore[reportAttributeAccessIssue]
    ledger = Ledger(options.trials, kill_idle=options.kill_idle)
    context: Any = SimpleNamespace(silent_seconds=600.0)
    schedule.run_schedule(ledger, context, slots, sweep="short")
    heard = {"ended": len(ledger.ended), "died": ledger.died, "lost": ledger.lost}
    print(json.dumps({**heard, "remembered": ledger.most_remembered}))


if __name__ == "__main__":
    main()
