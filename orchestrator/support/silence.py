"""Ends a worker that is silent and does nothing, and leaves one that is merely slow."""

import faulthandler
import sys
import threading
import time

SLOW_FACTOR = 4
"""A worker that computes may be silent so many times longer than one that does nothing."""

_BUSY = 0.01
"""A thread that has this part of a processor computes; one that waits for ever has none."""
_LOOK_SECONDS = 5.0


class Silence:
    """Ends this process when its thread has made no progress for too long, whatever it hangs in.

    A timer of C does that, so that it does not matter who holds the interpreter. It begins anew
    with every progress, and for a while with every moment in which the thread was seen to compute.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._lock = threading.Lock()
        self._since: float | None = None
        """When the last progress was made, by the monotonic clock; None: none is expected."""
        threading.Thread(target=self._renew_while_computing, name="silence", daemon=True).start()

    def expect_progress(self) -> None:
        """From now on, in time."""
        with self._lock:
            self._since = time.monotonic()
            self._begin()

    def expect_none(self) -> None:
        with self._lock:
            self._since = None
            faulthandler.cancel_dump_traceback_later()

    def _begin(self) -> None:
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.stderr)

    def _renew_while_computing(self) -> None:
        pause = min(_LOOK_SECONDS, self._seconds / 4)
        used = time.clock_gettime(self._clock)
        while True:
            time.sleep(pause)
            now_used = time.clock_gettime(self._clock)
            computes, used = now_used - used >= _BUSY * pause, now_used
            with self._lock:
                if self._since is None:
                    continue
                left = self._since + SLOW_FACTOR * self._seconds - time.monotonic()
                if computes and left > self._seconds:
                    self._begin()
