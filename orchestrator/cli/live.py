"""The view of a running sweep: a table that renews itself, or plain lines in a log."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.record.record import TrialRecord
from orchestrator.run.progress import Progress, duration, points
from orchestrator.training.facts import EpochRow


class LiveView:
    """Shows a Progress; as an observer it also writes a line per finished trial to a log."""

    def __init__(self, progress: Progress, console: Console, *, in_place: bool = True) -> None:
        """`in_place`: renew a table on a terminal, which nobody else must write to meanwhile."""
        self._progress = progress
        self._console = console
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=2)
            if in_place and console.is_terminal
            else None
        )

    def __enter__(self) -> "LiveView":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def trial_started(self, trial: TrialRecord) -> None:
        """Shows nothing: a trial is told when it ends."""

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        """Too much for a log."""

    def trial_ended(self, trial: TrialRecord) -> None:
        if not self._live:
            line = self._progress.line(trial)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        progress = self._progress
        with progress.lock:
            table = study_table(progress)
            left = progress.seconds_left()
            line = (
                f"{progress.finished} of {progress.plan.num_trials} trials · "
                f"{duration(progress.elapsed_seconds)} elapsed"
                f"{f' · about {duration(left)} left' if left is not None else ''}"
                " · Ctrl-C stops, and `orchestrator resume` goes on"
            )
        return Group(table, Text(line))


def study_table(progress: Progress) -> Table:
    """Per study: how many trials are where, and the best so far."""
    table = Table(box=None, pad_edge=False)
    table.add_column("study")
    for name in ("done", "running", "complete", "pruned", "failed"):
        table.add_column(name, justify="right")
    table.add_column("best val", justify="right")
    table.add_column("now")
    for study in progress.studies.values():
        best = study.best
        now = ", ".join(f"#{n} epoch {e}" for n, e in sorted(study.running.items())[:3])
        table.add_row(
            study.name,
            f"{study.finished}/{study.planned}",
            str(len(study.running)),
            str(study.complete),
            str(study.pruned),
            Text(str(study.failed), style="red" if study.failed else ""),
            f"{points(best)} {progress.plan.objective(study.name).unit}" if best else "",
            now,
        )
    return table
