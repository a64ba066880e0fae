"""Work that takes long says what it is, how far it is and about how long it still takes.

Whoever works writes `with phase("decoding images", total=1000) as done: ... done.advance()`.
Whoever looks is named with `told_to`: a line on a terminal, plain lines in a log, a bar in a
notebook. Where nobody looks, nothing is told. As with logging, the two know nothing of each other.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol, TypeVar

from orchestrator.support.durations import duration_text

Item = TypeVar("Item")

SURE_SECONDS = 2.0
"""So long a phase must have run before its pace says when it ends."""


class Phase:
    """One piece of work; `advance` may be called from any thread that has its turn."""

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.total = total
        """How many there are of what is counted; None: nothing is counted."""
        self.done = 0
        self._clock = clock
        self._begun = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    def advance(self, number: int = 1) -> None:
        self.done += number

    def seconds_left(self) -> float | None:
        """By the mean pace so far; None where that says nothing yet."""
        if not self.total or not self.done or self.seconds < SURE_SECONDS:
            return None
        return self.seconds / self.done * max(0, self.total - self.done)

    def __str__(self) -> str:
        """`decoding images: 1,200 of 5,000, about 12 s left`."""
        if self.total is None:
            return self.what
        left = self.seconds_left()
        about = "" if left is None else f", about {duration_text(left)} left"
        return f"{self.what}: {self.done:,} of {self.total:,}{about}"


class Teller(Protocol):
    """Shows phases; those that began last end first."""

    def begin(self, phase: Phase) -> None: ...
    def end(self, phase: Phase) -> None: ...


_teller: ContextVar[Teller | None] = ContextVar("teller", default=None)


@contextlib.contextmanager
def told_to(teller: Teller | None) -> Iterator[None]:
    """Phases of this thread are told to `teller` while it is entered; None: to nobody."""
    before = _teller.set(teller)
    try:
        yield
    finally:
        _teller.reset(before)


def is_told() -> bool:
    """Whether anybody looks."""
    return _teller.get() is not None


@contextlib.contextmanager
def phase(what: str, total: int | None = None) -> Iterator[Phase]:
    """What is done while it is entered, and of how many parts it is, if they are counted."""
    with shown(Phase(what, total)) as begun:
        yield begun


@contextlib.contextmanager
def shown(begun: Phase) -> Iterator[Phase]:
    """Tells a phase that was made before, by whoever counts in it."""
    teller = _teller.get()
    if teller is None:
        yield begun
        return
    try:
        teller.begin(begun)
        yield begun
    finally:
        teller.end(begun)


def each(what: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """The items, counted as they are taken."""
    with phase(what, total) as begun:
        for item in items:
            yield item
            begun.advance()


def sentence(phases: Sequence[Phase]) -> str:
    """Phases within each other on one line, the outer one first."""
    return " · ".join(map(str, phases))


class Watch:
    """A `Teller` that looks at what is being done a few times a second, in a thread of its own.

    The work itself only counts: it is never slowed down by whoever shows it.
    """

    every_seconds = 0.2

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.phases: list[Phase] = []
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, phase: Phase) -> None:
        with self.lock:
            self.phases.append(phase)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="phases", daemon=True)
                self._thread.start()
            self._busy.set()

    def end(self, phase: Phase) -> None:
        with self.lock:
            if phase in self.phases:  # an interrupt may come before it was told
                self.phases.remove(phase)
            if not self.phases:
                self._busy.clear()
                self.over()

    def look(self) -> None:
        """Show `phases`, of which there is one at least."""
        raise NotImplementedError

    def over(self) -> None:
        """There are none any more."""

    def _watch(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(self.every_seconds)
            with self.lock:
                if self.phases:
                    self.look()


class PhaseLines(Watch):
    """For a log: a line when something turns out to take long, then one every half minute."""

    first_seconds = 2.0
    again_seconds = 30.0

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._say = say
        self._clock = clock
        self._outermost: Phase | None = None
        self._told_at = 0.0

    def look(self) -> None:
        outermost, now = self.phases[0], self._clock()
        is_new = outermost is not self._outermost
        long_enough = (
            outermost.seconds >= self.first_seconds
            if is_new
            else now - self._told_at >= self.again_seconds
        )
        if long_enough:
            self._outermost, self._told_at = outermost, now
            self._say(f"{sentence(self.phases)} ...")
