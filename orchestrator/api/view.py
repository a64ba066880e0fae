"""What a program sees while a sweep runs: a progress bar in a notebook, elsewhere lines."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.record.record import EpochRow, TrialRecord
from orchestrator.record.steering import Steering
from orchestrator.support.foreign_text import indented, visible
from orchestrator.support.phases import PhaseLines, Watch, is_told, sentence, told_to

if TYPE_CHECKING:
    from tqdm.std import tqdm

    from orchestrator.run.progress import Progress
    from orchestrator.run.search_queue import Observer


def say(line: str) -> None:
    """Print a line; what stands in a name from elsewhere is shown, never obeyed."""
    print(visible(indented(line), lines=True), flush=True)


def in_a_notebook() -> bool:
    """Whether this process answers to one; a terminal with IPython is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and "ipykernel" in type(shell).__module__


@contextmanager
def lines_or_bar(progress: "Progress") -> "Iterator[Observer]":
    """Shows a running sweep for as long as it is entered."""
    if not in_a_notebook():
        yield _Lines(progress)
        return
    from tqdm.auto import tqdm as a_bar

    total = progress.planned
    with a_bar(total=total, initial=progress.finished, unit="trial") as bar:
        yield _Bar(progress, bar)


@contextmanager
def phases_shown() -> Iterator[None]:
    """While it is entered, what takes long says so: on a line of a notebook that changes, else in
    lines now and then. A command has a view of its own, which stays."""
    if is_told():
        yield
        return
    with told_to(_LineOfANotebook() if in_a_notebook() else PhaseLines(say)):
        yield


class _LineOfANotebook(Watch):
    """Gone when the work is done."""

    every_seconds = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._line: tqdm[Any] | None = None

    def look(self) -> None:
        if self._line is None:
            from tqdm.auto import tqdm as a_line

            self._line = a_line(total=0, bar_format="{desc}", leave=False)
        assert self._line is not None
        self._line.set_description_str(f"{sentence(self.phases)} ...")

    def over(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class _Lines:
    """One for each trial that ends."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress

    def trial_started(self, trial: TrialRecord) -> None:
        """Shows nothing: a trial is told when it ends."""

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        """Too much for a log."""

    def trial_frozen(self, trial: TrialRecord) -> None:
        say(self._progress.line(trial))

    def trial_ended(self, trial: TrialRecord) -> None:
        say(self._progress.line(trial))

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        """Who heeds it has said so."""


class _Bar(_Lines):
    """Trials that ended, with the newest best beside them."""

    def __init__(self, progress: "Progress", bar: "tqdm[Any]") -> None:
        super().__init__(progress)
        self._bar = bar

    def trial_frozen(self, trial: TrialRecord) -> None:
        """The bar counts what has ended."""

    def trial_ended(self, trial: TrialRecord) -> None:
        self._bar.update()
        best = self._progress.studies[trial.study].best
        if best is not None and best.number == trial.number:
            self._bar.set_postfix_str(f"{trial.study} {100 * (best.val_accuracy or 0):.1f} %")

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        self._bar.total = sum(num_trials.values())
        self._bar.refresh()
