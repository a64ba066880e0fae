"""Ctrl-C, a cluster's stop signal and a closed terminal: how a command ends on them.

While trials run, or files are written out, the first signal is only noted, and the sweep ends in
order. Elsewhere nothing is to be saved, and the first signal ends the command. A second signal ends
the process at once, which is safe: whatever is written is written whole, and `resume` goes on.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil

STOPPED = 130
"""Exit code of a process that was told to stop."""

SAME_SECONDS = 0.5
"""A signal that comes twice so soon came once: `timeout` sends it to us and to our group."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class MachineLost(Exception):
    """What trials run on has gone: nothing is wrong with the sweep, which can be gone on with."""


class _Signals:
    name: str | None = None
    """The name of the first signal that came."""
    last: tuple[int, float] | None = None
    """The signal that came last, and when by the monotonic clock."""
    blocks: int = 0
    """How many blocks are entered that end in order."""
    acknowledged: int = 0
    """How many views are shown that say themselves that the sweep is stopping."""
    at_once: bool = False
    """Nothing is lost where the work of the block is broken off."""
    leaving: bool = False
    """The command is over; what is still to be done takes a moment and nobody waits for it."""


_signals = _Signals()


def listen() -> None:
    """From now on signals end this process as a command ends; for the main thread.

    A signal that whoever started us wants to be ignored (`nohup`) stays so.
    """
    vars(_signals).clear()  # as nothing ever came
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def leave() -> None:
    """The command is over: from now on any signal ends the process at once."""
    _signals.leaving = True


@contextlib.contextmanager
def going_on_with(command: str) -> Iterator[None]:
    """Where the machine is lost, `command` is named as what goes on afterwards."""
    try:
        yield
    except MachineLost as error:
        raise MachineLost(f"{error}; go on with: {command}") from error


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """While it is entered, the first signal is only noted, for `stop_requested` to tell."""
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if in_main else {}
    if in_main and not _signals.blocks and _on_signal not in before.values():
        listen()
    _signals.blocks += 1
    try:
        yield
    finally:
        _signals.blocks -= 1
        if not _signals.blocks:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def acknowledged_by_us() -> Iterator[None]:
    """While it is entered, whoever entered it tells of the first signal, as `stop_requested` has
    it: a line in the middle of a view that renews itself would leave its halves behind."""
    _signals.acknowledged += 1
    try:
        yield
    finally:
        _signals.acknowledged -= 1


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Within `ending_in_order`: the first signal is noted, too, and ends this block at once.

    For waiting before anything runs. Afterwards `stop_requested` tells it.
    """
    _signals.at_once = True
    try:
        yield
    except KeyboardInterrupt:
        if _signals.name is None:
            raise
    finally:
        _signals.at_once = False


def deliver_signal() -> None:
    """Hand the signal that was noted to whoever listened before us; nothing where none came.

    For programs that call us, after what they called has ended in order: an interrupt goes on as
    the interrupt that it is. Of a command, which listens itself, it stays for `stop_requested`.
    """
    name = _signals.name
    if name is not None and signal.getsignal(signal.Signals[name]) is not _on_signal:
        _signals.name = None
        signal.raise_signal(signal.Signals[name])


def stop_requested() -> str | None:
    """The signal that told this process to stop, if one came."""
    return _signals.name


def kill_children() -> None:
    """What we started of Ray would take a minute to notice that we are gone."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _on_signal(number: int, frame: FrameType | None) -> None:
    now, last = time.monotonic(), _signals.last
    _signals.last = (number, now)
    if last is not None:
        again = number == last[0] and now - last[1] < SAME_SECONDS
        # A terminal is closed once, whoever tells of it, and however often.
        if again or number == signal.SIGHUP:
            return
    name = signal.Signals(number).name
    if _signals.leaving or _signals.name is not None:
        below = "\n" if _signals.acknowledged else ""
        _tell(f"{below}stopped at once; `orchestrator resume` goes on")
        kill_children()
        os._exit(STOPPED)
    _signals.name = name
    if _signals.blocks:
        if not _signals.acknowledged:
            _tell(f"{name}: stopping; once more stops at once")
        if _signals.at_once:
            raise KeyboardInterrupt
    else:
        if not _signals.acknowledged:
            _tell(f"{name}: stopped")
        raise KeyboardInterrupt


def _tell(line: str) -> None:
    # Not through a logger, whose lock the interrupted code may hold. The terminal may be gone.
    # On one, where a line may stand that is renewed: on a line of its own, and the cursor is back.
    with contextlib.suppress(OSError):
        before = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{before}{line}\n".encode())
