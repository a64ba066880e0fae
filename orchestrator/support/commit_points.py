"""The commit points: where a process may die, and nothing may be lost.

Tests name one in the environment of a real process, which then ends there as if by `kill -9`:

    ORCHESTRATOR_KILL_AT="after report:3"         the third time that it comes by
    ORCHESTRATOR_KILL_AT="half checkpoint@/tmp/x" once only, however many processes come by; the
                                                  file says that it happened

or makes it stand still there, at a pipe in a folder that is named so:

    ORCHESTRATOR_GATES=/tmp/gates    with a pipe in it called "half checkpoint digits.linear 1"
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

GATES = "ORCHESTRATOR_GATES"
_MORE_THAN_A_GATE_HOLDS = 1 << 16

COMMIT_POINTS = (
    "before ask",
    "after ask",  # a trial is running that nobody was given yet
    "before report",
    "after report",  # the value stands there, the pruner was not asked
    "half decision",  # it is decided, the other trials cannot see the rung yet
    "after decision",
    "before tell",
    "half tell",  # curve and facts stand there, the trial is still running
    "after tell",
    "half mlflow",  # its database is there under another name
    "before tracking",
    "after tracking",
    "half checkpoint",  # in a worker
    "after checkpoint",
    "before table",
    "half table",
    "half bundle",
    "after export",
)
"""In the driver, unless said otherwise."""


class _KillAt:
    def __init__(self, wanted: str) -> None:
        wanted, _, once = wanted.partition("@")
        self.name, _, count = wanted.partition(":")
        self.passes_left = int(count or 1)
        self.marker = Path(once) if once else None
        assert self.name in COMMIT_POINTS, self.name

    def passed(self, name: str) -> None:
        if name != self.name:
            return
        self.passes_left -= 1
        if self.passes_left:
            return
        if self.marker is not None:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                return
        os.kill(os.getpid(), signal.SIGKILL)


_wanted = os.environ.get("ORCHESTRATOR_KILL_AT")
_kill_at = _KillAt(_wanted) if _wanted else None


def commit_point(name: str, of: str = "") -> None:
    """Called where what was written so far must be enough to go on from."""
    if _kill_at is not None:
        _kill_at.passed(name)
    if gates := os.environ.get(GATES):
        _stand_still_at(Path(gates, f"{name} {of}"))


def _stand_still_at(gate: Path) -> None:
    """Until whoever made this pipe reads from it; not at all where there is none."""
    with suppress(FileNotFoundError, BrokenPipeError), gate.open("wb", buffering=0) as pipe:
        pipe.write(bytes(_MORE_THAN_A_GATE_HOLDS))


def kill_at(wanted: str | None) -> None:
    """Sets the commit point as the environment variable does, for a process that has read its
    environment already."""
    global _kill_at
    _kill_at = _KillAt(wanted) if wanted else None
