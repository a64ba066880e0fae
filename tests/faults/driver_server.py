"""Forks a driver for every line of stdin, and answers with the code it ended with.

Everything is imported once. A driver is the command `orchestrator resume --engine local`: record,
pruner, training, checkpoints, MLflow, table and bundles without Ray, which has tests of its own.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator import cli
from orchestrator.data.cache import ImageCache
from orchestrator.plan.plan import save_plan
from orchestrator.plan.prepare import plan_sweep
from orchestrator.plan.request import SweepRequest
from orchestrator.record import database
from orchestrator.support import commit_points

IMPORTED_LATE = ("orchestrator.api.sweep", "orchestrator.run.sweep", "orchestrator.run.in_process")
"""What a command imports when it is called: here once for all drivers."""


def _plan(folder: str, suite: str, request: dict[str, Any]) -> None:
    Path(folder).mkdir(parents=True)
    asked = SweepRequest(suite=suite, **request)
    plan, _ = plan_sweep(asked, name="sweep", cache=ImageCache(), say=lambda line: None)
    save_plan(plan, Path(folder))


def _run(folder: str, kill_at: str | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if "ORCHESTRATOR_STORAGE_SECONDS" in environment:
        database.PATIENCE_SECONDS = float(environment["ORCHESTRATOR_STORAGE_SECONDS"])
    commit_points.kill_at(kill_at)
    one_slot = ["--engine", "local", "--cpus-per-trial", "1", "--gpus-per-trial", "0"]
    sys.argv = ["orchestrator", "resume", folder, *one_slot]
    cli.main()


@contextlib.contextmanager
def _printing_nothing_to_our_caller() -> Iterator[int]:
    """Answers go to what was stdout; whatever is printed goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    yield answers


def _print_to(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _serve() -> None:
    with _printing_nothing_to_our_caller() as answers:
        for line in sys.stdin:
            command = json.loads(line)
            child = os.fork()
            if child == 0:
                code: Any = 1
                try:
                    _print_to(command.pop("output"))
                    {"plan": _plan, "run": _run}[command.pop("do")](**command)
                    code = 0
                except SystemExit as end:
                    code = end.code or 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    for module in IMPORTED_LATE:
        importlib.import_module(module)
    _serve()
