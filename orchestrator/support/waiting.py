"""Waiting for what another process will have done, and what its log says where it has not."""

import time
from collections.abc import Callable


def wait_until(
    done: Callable[[], bool],
    *,
    seconds: float,
    pause: float = 0.2,
    hopeless: Callable[[], bool] = lambda: False,
) -> bool:
    """Ask until it is done; False after so many seconds, or as soon as there is no hope."""
    deadline = time.monotonic() + seconds
    while not done():
        if hopeless() or time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def last_lines(log: bytes, count: int = 15) -> str:
    """The end of what a process said, where its reason usually is."""
    return "\n".join(log.decode(errors="replace").splitlines()[-count:])
