"""The view of a running sweep: a table that renews itself, or plain lines in a log."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from orchestrator.cli.study_view import Lines, fitted
from orchestrator.cli.terminal import Terminal, line_at_the_bottom
from orchestrator.record.record import TrialRecord
from orchestrator.record.steering import Steering
from orchestrator.run.progress import Progress
from orchestrator.support.counted import counted
from orchestrator.support.phases import Phase, sentence, told_to
from orchestrator.support.stopping import acknowledged_by_us, stop_requested
from orchestrator.training.facts import EpochRow


class LiveView:
    """Shows a Progress; as an observer it also writes a line per finished trial to a log.

    On a terminal it is gone when the sweep ends, for the one table that stays.
    """

    def __init__(
        self, progress: Progress, console: Terminal, *, resume: str, in_place: bool = True
    ) -> None:
        """`resume`: the command that goes on; `in_place`: renew a table on a terminal, which
        nobody else must write to meanwhile."""
        self._progress = progress
        self._console = console
        self._resume = resume
        self._in_place = in_place and console.is_terminal and not console.is_dumb_terminal
        self._phases: list[Phase] = []
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> "LiveView":
        if self._in_place:
            self._entered.enter_context(acknowledged_by_us())
            self._entered.enter_context(told_to(self))
            self._entered.enter_context(shown_in_place(self._console, self._lines))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered.close()
        if self._in_place and stop_requested():
            self._console.print(self._stopping(), soft_wrap=True)

    def trial_started(self, trial: TrialRecord) -> None:
        """Shows nothing: a trial is told when it ends."""

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        """Too much for a log."""

    def trial_frozen(self, trial: TrialRecord) -> None:
        self.trial_ended(trial)

    def trial_ended(self, trial: TrialRecord) -> None:
        if not self._in_place:
            line = self._progress.line(trial)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        """Progress knows it, and who heeds it has said so."""

    def begin(self, phase: Phase) -> None:
        self._phases.append(phase)

    def end(self, phase: Phase) -> None:
        self._phases.remove(phase)

    def _lines(self, options: ConsoleOptions) -> Lines:
        hint = f"Ctrl-C stops, and `{self._resume}` goes on"
        with self._progress.lock:
            paused = self._progress.paused_text
            return fitted(
                self._progress,
                self._console,
                options,
                elapsed=self._progress.elapsed_seconds,
                left=self._progress.seconds_left(),
                doing=f"{sentence(list(self._phases))} ..." if self._phases else paused,
                hint=self._stopping() if stop_requested() else hint,
            )

    def _stopping(self) -> str:
        stopped = counted(self._progress.num_running, "trial is", "trials are")
        return (
            f"{stop_requested()}: stopping, {stopped} stopped; `{self._resume}` goes on. "
            "Ctrl-C once more stops at once"
        )


@contextlib.contextmanager
def shown_in_place(console: Terminal, lines: Callable[[ConsoleOptions], Lines]) -> Iterator[None]:
    """While it is entered, what `lines` makes is renewed at the bottom of the terminal.

    What others print meanwhile goes above it; in the end it is gone.
    """
    live = _InPlace(console, lines)
    with line_at_the_bottom(console):
        live.start(refresh=True)
        # Nobody could show it again where a second signal ends the process at once.
        console.show_cursor(True)
        try:
            yield
        finally:
            live.stop()


class _InPlace(Live):
    """Rich's view, and right too after the terminal was made narrower."""

    def __init__(self, console: Terminal, lines: Callable[[ConsoleOptions], Lines]) -> None:
        self._lines = lines
        self._widths: list[int] = []
        """Of the lines on the terminal."""
        super().__init__(
            get_renderable=lambda: self._drawn,
            console=console,
            refresh_per_second=4,
            transient=True,
            vertical_overflow="crop",
            redirect_stderr=sys.stderr.isatty(),
        )

    @property
    def _drawn(self) -> ConsoleRenderable:
        return _Drawn(self)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called before anything is printed: the cursor must go up to where the view begins."""
        # A line that no longer fits is now on several rows, of which Rich knows one.
        width = max(1, self.console.width)
        wrapped = sum(max(0, -(-one // width) - 1) for one in self._widths)
        row = (
            (ControlType.CARRIAGE_RETURN,),
            (ControlType.ERASE_IN_LINE, 2),
            (ControlType.CURSOR_UP, 1),
        )
        return [Control(*(row * wrapped)), *super().process_renderables(renderables)]

    def draw(self, options: ConsoleOptions) -> Lines:
        lines = self._lines(options)
        self._widths = [Segment.get_line_length(line) for line in lines]
        return lines


class _Drawn:
    def __init__(self, live: _InPlace) -> None:
        self._live = live

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._live.draw(options)
        for line in lines:
            yield from line
            yield Segment.line()
