"""Processes that are started again when they end, under one process whose end is theirs.

Own lines, since no library does this without root, in a container and over ssh alike. `supervisor`
leaves its programs behind when it is killed itself, gives one up that fails a few times in a row,
and cannot wait with one for what another answers; units of systemd need a manager of the user's
that runs, which containers do not have, and lingering, which root has to allow.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.support.locks import take
from orchestrator.support.with_parent import end_with_parent

logger = logging.getLogger(__name__)

STOP_SECONDS = 30
"""A process that was asked to stop is killed after so long."""
LONGEST_PAUSE_SECONDS = 30.0
"""Between two starts of a process that ends again and again."""


class Supervised:
    """A process that is started again when it ends."""

    def __init__(
        self, name: str, start: Callable[[], subprocess.Popen[Any]], stop_signal: signal.Signals
    ) -> None:
        self.name = name
        self._start = start
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[Any] | None = None
        self._starts = 0
        self._started = 0.0
        self._pause = 0.0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def as_json(self) -> dict[str, Any]:
        return {"pid": self._process and self._process.pid, "starts": self._starts}

    def keep_running(self) -> bool:
        """Start it if it does not run; True if that was so."""
        if self.is_running:
            return False
        ran = time.monotonic() - self._started
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGKILL)  # what it may have left
            if ran < self._pause:
                return False
            logger.warning("%s ended with %s; starting it again", self.name, self._process.poll())
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause + 1) if ran < 60 else 0.0
        self._process = self._start()
        self._starts += 1
        self._started = time.monotonic()
        return True

    def stop(self) -> None:
        if self._process is None or not self.is_running:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("%s does not stop; killing it", self.name)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()


class StateFile:
    """What a supervisor tells of itself and of its processes; it holds the file while it lives."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        try:
            return json.loads(self.path.read_text())
        except (ValueError, FileNotFoundError):  # it is just being written, or will be
            return {}

    def supervisor_pid(self) -> int | None:
        """The process that holds the file, if there is one."""
        if not self.path.exists():
            return None
        with self.path.open("rb") as file:
            return None if take(file, shared=True) else self.read().get("pid")

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[Sequence[Supervised]], None]]:
        """Hold it and get what writes it; ValueError where another process does."""
        with self.path.open("a+") as file:
            if not take(file):
                raise ValueError(f"{self.path.parent}: is supervised already")

            def write(processes: Sequence[Supervised]) -> None:
                document = {"pid": os.getpid()}
                document |= {process.name: process.as_json() for process in processes}
                file.seek(0)
                file.truncate()
                json.dump(document, file)
                file.flush()

            yield write


def spawn(
    command: Sequence[Any], log: Path, death_signal: signal.Signals, **options: Any
) -> subprocess.Popen[Any]:
    """Start a process that is sent `death_signal` by the kernel when this one ends."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603
            [*map(str, command)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, death_signal),
            **options,
        )


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that is set when this process is told to stop."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    yield stopped


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
