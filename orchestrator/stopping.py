"""Ctrl-C and a cluster's stop signal: once the schedule ends in order, twice the process ends now.

Ending now is safe: whatever is written is written whole, and `resume` goes on from there.
"""

import contextlib
import logging
import os
import signal
from types import FrameType

import psutil

logger = logging.getLogger(__name__)

STOPPED = 130
"""Exit code of a process that was told to stop."""


class StopSignals:
    """While it is entered, the first signal only sets `name`, and the second ends the process."""

    def __init__(self) -> None:
        self.name: str | None = None
        """Of the signal that came."""

    def __enter__(self) -> "StopSignals":
        self._before = {
            number: signal.signal(number, self._came) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            os.write(2, b"stopped at once; `orchestrator resume` goes on\n")
            _kill_children()
            os._exit(STOPPED)
        self.name = signal.Signals(number).name
        logger.warning("%s: stopping; once more stops at once", self.name)


def _kill_children() -> None:
    """What we started of Ray would take a minute to notice that we are gone."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
