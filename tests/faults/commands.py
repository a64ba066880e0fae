"""The real command with real Ray, and a look at its processes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
from plans import LONGEST_WAIT_SECONDS

T = TypeVar("T")

COMMAND = (sys.executable, "-m", "orchestrator")

ONE_SLOT = ("--slots", 1, "--cpus-per-trial", 1)
"""As the drivers of `drivers.py` have it: with more threads sums are rounded differently."""


class Running:
    """A command that runs; what it prints is kept as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait(self, seconds: float = LONGEST_WAIT_SECONDS) -> int:
        code = self.process.wait(timeout=seconds)
        self._reader.join(timeout=10)
        return code

    def wait_until(self, condition: Callable[[], T], seconds: float = LONGEST_WAIT_SECONDS) -> T:
        """What the condition gave when it came true."""
        deadline = time.monotonic() + seconds
        while not (given := condition()):
            assert self.process.poll() is None, f"it ended too early:\n{self.output}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.output}"
            time.sleep(0.05)
        return given

    def wait_for_line(self, pattern: str, seconds: float = LONGEST_WAIT_SECONDS) -> None:
        self.wait_until(lambda: re.search(pattern, self.output), seconds)

    def processes(self) -> list[psutil.Process]:
        try:
            driver = psutil.Process(self.process.pid)
            return [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        return [process for process in self.processes() if trains(process)]


def trains(process: psutil.Process) -> bool:
    """Whether it is an actor of Tune's, whose title says what it does."""
    try:
        return "ray::ResourceTrainable" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@contextmanager
def running(
    *arguments: object,
    cache: Path,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """The command with these arguments; whatever is left of it at the end is killed.

    `options` are those of a `subprocess.Popen`.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "ORCHESTRATOR_"))}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env={
            **clean,
            "ORCHESTRATOR_CACHE": str(cache),
            "ORCHESTRATOR_CHECKPOINT_SECONDS": "0",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **{"preexec_fn": _hear_all_signals, **options},
    )
    command = Running(process)
    try:
        yield command
    finally:
        for left in reversed(command.processes()):
            left.kill()
        process.wait()


def _hear_all_signals() -> None:
    """Also where the tests run in the background or under nohup, which turn them off."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
