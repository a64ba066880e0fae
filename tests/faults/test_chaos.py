"""Workers, driver and MLflow are killed at random until a sweep is done: it ends as if nothing was.

Two seeds by default; ORCHESTRATOR_CHAOS_SEEDS=10 for a night.
"""

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
from commands import ONE_SLOT, Running, running, trains
from drivers import Drivers
from plans import wait_for
from story import Story, assert_whole, story_of

from orchestrator.tracking.mlflow.server import server_command, server_environment

pytestmark = [pytest.mark.ray, pytest.mark.mlflow, pytest.mark.slow, pytest.mark.thorough]

SEEDS = range(int(os.environ.get("ORCHESTRATOR_CHAOS_SEEDS", 2)))
FAULTS = ("worker", "worker", "driver", "mlflow")
"""In an order of the seed's; a third death in one trial would rightly fail it."""

LONGER = {
    "backbone": "vit_quickstart",
    "methods": ["linear", "vpt_deep"],
    "trials": 4,
    "epochs": 40,
    "pruner_options": {"first_rung_epochs": 10, "reduction_factor": 2},
}


class MLflowServer:
    """Real, on a SQLite file, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        store, artifacts = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")
        self._command = server_command(store, artifacts, "127.0.0.1", self._port)
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=server_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return answer.status == 200
        return False


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def longer(drivers: Drivers, workshop: Path, tiny_suite: Path) -> tuple[Path, Story]:
    """A planned sweep that takes long enough to be disturbed, and what it finds undisturbed."""
    planned = drivers.plan(workshop / "longer", tiny_suite, **LONGER)
    undisturbed = shutil.copytree(planned, workshop / "longer-undisturbed")
    drivers.finish(undisturbed)
    return planned, story_of(undisturbed)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kills_change_no_result(
    seed: int,
    longer: tuple[Path, Story],
    mlflow_server: MLflowServer,
    workshop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    planned, undisturbed = longer
    folder = shutil.copytree(planned, tmp_path / "sweep")
    chance = random.Random(seed)
    faults = chance.sample(FAULTS, len(FAULTS))
    caused: Counter[str] = Counter()

    def start(stack: ExitStack) -> Running:
        there = {"MLFLOW_TRACKING_URI": mlflow_server.uri}
        arguments = ("resume", folder, *ONE_SLOT)
        return stack.enter_context(running(*arguments, cache=workshop / "cache", environment=there))

    with ExitStack() as stack:
        command = start(stack)
        wait_for(mlflow_server.answers)
        for fault in faults:
            goal = num_reported(folder) + chance.randint(1, 20)
            ready = Ready(command, folder, goal)
            wait_for(ready)
            if command.process.poll() is not None:
                break  # it was faster than the faults
            cause(fault, command, mlflow_server)
            caused[fault] += 1
            if fault == "driver":
                command = start(stack)
        assert command.wait() in (0, -signal.SIGKILL), command.output
    wait_for(mlflow_server.answers)
    told = "sends it what it missed"
    while told:
        with ExitStack() as stack:
            last = start(stack)
            assert last.wait() == 0, last.output
            told = told if told in last.output else ""
    assert story_of(folder) == undisturbed
    checked = assert_whole(folder, mlflow_server.uri)
    with capsys.disabled():
        killed = ", ".join(f"{count} of {fault}" for fault, count in caused.items())
        print(f"\nseed {seed}: kills {killed}; {checked.total()} invariants hold")
    assert caused, "nothing was disturbed"


class Ready:
    """Whether the sweep has come so far that the next fault is due, or has ended."""

    def __init__(self, command: Running, folder: Path, goal: int) -> None:
        self._command, self._folder, self._goal = command, folder, goal

    def __call__(self) -> bool:
        if self._command.process.poll() is not None:
            return True
        return num_reported(self._folder) >= self._goal and bool(self._command.workers())


def num_reported(folder: Path) -> int:
    """Epochs in the storage."""
    database = folder / "studies.db"
    if not database.exists():
        return 0
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()
        return count
    return 0


def cause(fault: str, command: Running, server: MLflowServer) -> None:
    match fault:
        case "worker":
            for worker in command.workers():
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
        case "driver":
            workers = command.workers()
            command.process.kill()
            command.wait()
            wait_for(lambda: not any(map(trains, workers)))  # they end without their driver
        case "mlflow":
            server.kill()
            server.start()
