"""What a command is busy with: a line that moves on a terminal, plain lines in a log."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.cli.terminal import Terminal, line_at_the_bottom
from orchestrator.support.durations import duration
from orchestrator.support.phases import PhaseLines, Watch, sentence, told_to

if TYPE_CHECKING:
    from rich.table import Table

SHORT_SECONDS = 0.3
"""What is over by then is not worth a line."""


@contextlib.contextmanager
def waiting_shown() -> Iterator[None]:
    """While it is entered, phases of this thread are seen by whoever waits.

    On stderr, so that what a command prints can go into a file; where that is no terminal but
    stdout is one, there.
    """
    consoles = [Terminal(stderr=True), Terminal()]
    on = next((one for one in consoles if one.is_terminal and not one.is_dumb_terminal), None)
    if on is None:
        log = consoles[0]
        with told_to(PhaseLines(lambda line: log.print(line, soft_wrap=True))):
            yield
        return
    line = WaitingLine(on)
    with told_to(line), _silent_from_a_breakpoint_on(line):
        yield


@contextlib.contextmanager
def _silent_from_a_breakpoint_on(line: "WaitingLine") -> Iterator[None]:
    """In a debugger somebody types where the line would stand."""
    before = sys.breakpointhook

    def stopped(*arguments: Any, **how: Any) -> Any:
        line.silence()
        return before(*arguments, **how)

    sys.breakpointhook = stopped
    try:
        yield
    finally:
        sys.breakpointhook = before


class WaitingLine(Watch):
    """The line at the bottom of a terminal; gone as soon as the work is done."""

    def __init__(self, console: Terminal) -> None:
        super().__init__()
        self._console = console
        self._shown = contextlib.ExitStack()
        self._is_shown = False
        self._is_silent = False
        self._frame = 0

    def silence(self) -> None:
        """From now on nothing is shown."""
        with self.lock:
            self._is_silent = True
            self.over()

    def look(self) -> None:
        if self._is_shown:
            self._live.refresh()
        elif self.phases[0].seconds >= SHORT_SECONDS and not self._is_silent:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stderr=self._console.stderr,
            )
            self._is_shown = True
            self._shown.enter_context(line_at_the_bottom(self._console))
            self._live.start(refresh=True)
            self._shown.callback(self._live.stop)

    def over(self) -> None:
        self._is_shown = False
        self._shown.close()

    def _line(self) -> "Table | str":
        from rich.table import Table
        from rich.text import Text

        phases = list(self.phases)
        if not phases:
            return ""
        self._frame += 1
        frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if self._console.encoding.startswith("utf") else "|/-\\"
        # Room for the ^C of a terminal, which would begin a line of its own.
        line = Table.grid(padding=(0, 1))
        line.width = self._console.width - len("^C ")
        line.add_column(width=1)
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        line.add_column(justify="right", no_wrap=True)
        line.add_row(
            frames[self._frame % len(frames)],
            Text(sentence(phases)),
            duration(phases[0].seconds),
        )
        return line
