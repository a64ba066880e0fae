"""Forks a driver for every line of stdin, and answers with the code it ended with.

Everything is imported once. A driver is what `orchestrator resume` runs, with one slot in its own
process instead of Ray: record, pruner, training, checkpoints, MLflow, table and bundles are the
real ones. Ray has tests of its own.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator import faults, sweep
from orchestrator.data.cache import ImageCache
from orchestrator.ledger import Ledger, Run
from orchestrator.owner import owned
from orchestrator.plan import load_plan, save_plan
from orchestrator.prepare import SweepRequest, plan_sweep, reopen_suite
from orchestrator.slots import Slots
from orchestrator.trial import TrialContext
from orchestrator.worker import WarmWorker

ONE_SLOT = Slots(num_slots=1, cpu_threads=1, gpus_per_trial=0)


def _plan(folder: str, suite: str, request: dict[str, Any]) -> None:
    Path(folder).mkdir(parents=True)
    asked = SweepRequest(suite=suite, **request)
    plan, _ = plan_sweep(asked, name="sweep", cache=ImageCache(), say=lambda line: None)
    save_plan(plan, Path(folder))


def _run(folder: str, kill_at: str | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    faults.kill_at(kill_at)
    sweep.start_ray = lambda slots, address: None
    sweep.run_schedule = _one_slot
    plan = load_plan(Path(folder))
    cache = ImageCache()
    suite = reopen_suite(plan, cache)
    with owned(Path(folder)):
        sweep.run_sweep(plan, suite, Path(folder), ONE_SLOT, cache=cache)


def _one_slot(ledger: Ledger, context: TrialContext, slots: Slots, **_: Any) -> None:
    """What Tune does with a ledger and a single warm worker."""
    worker: WarmWorker | None = None
    for tune_id in map(str, range(ledger.num_left)):
        run = ledger.next_run(tune_id)
        if not isinstance(run, Run):
            return
        config = {"run": [run]}
        if worker is None:
            worker = object.__new__(WarmWorker)
            worker.setup(config, context)
        else:
            worker.reset_config(config)
        ended = False
        while not ended:
            result = worker.step()
            facts = {f"facts/{name}": value for name, value in result["facts"].items()}
            ended = ledger.reported(tune_id, {**result, **facts})
        ledger.forget(tune_id)


@contextlib.contextmanager
def _printing_nothing_to_our_caller() -> Iterator[int]:
    """Answers go to what was stdout; whatever is printed goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    yield answers


def _serve() -> None:
    with _printing_nothing_to_our_caller() as answers:
        for line in sys.stdin:
            command = json.loads(line)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    {"plan": _plan, "run": _run}[command.pop("do")](**command)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    _serve()
