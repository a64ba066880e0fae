"""How far a sweep is, on as many lines and columns as a terminal has.

Where not all fits, the totals and the hint stay: columns go before a name is cut, and studies that
wait go before those that run.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import ConsoleOptions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal import Terminal
from orchestrator.run.progress import Progress, StudyProgress, points
from orchestrator.support.counted import counted
from orchestrator.support.durations import duration

Lines = list[list[Segment]]

NAMES = ("task", "method")
NOW = ("now, all", "now, one")
"""What runs of a study: three trials and how many more, or one."""
FIRST_TO_GO = ("best configuration", NOW[0], "running", NOW[1], "pruned", "failed")
"""Columns, in the order in which they are left out of a terminal that is too narrow."""


def fitted(
    progress: Progress,
    console: Terminal,
    options: ConsoleOptions,
    *,
    elapsed: float,
    left: float | None,
    hint: str,
    doing: str = "",
) -> Lines:
    """The view, in two rows less than there are: one is for the cursor, where a terminal echoes
    what is typed, and one so that nothing is scrolled away.

    `elapsed` and `left` are seconds; `doing`: what keeps the sweep busy beside trials, if
    anything; `hint`: what the user can do.
    """
    size = options.size
    options = options.update(max_width=size.width, height=None)
    below = [console.render_lines(Text(), options, pad=False)] if size.height > 15 else []
    told = list(_totals(progress, elapsed, left))
    if size.height > 12 and (best := _newest_best(progress)):
        told.append(best)
    for line in [*told, doing, hint]:
        if line:
            below.append(console.render_lines(_as_text(line), options, pad=False))
    rest = [row for lines in below for row in lines]
    return [*_studies(progress, console, options, size.height - 2 - len(rest)), *rest]


def _as_text(line: str) -> Text:
    return Text(line, overflow="fold")


def _totals(progress: Progress, elapsed: float, left: float | None) -> Iterator[str]:
    states = [
        f"{number:,} {state}"
        for state in ("complete", "pruned", "failed", "frozen")
        if (number := getattr(progress, state))
    ]
    running = f"{progress.num_running:,} running"
    yield " · ".join(
        [
            f"{progress.finished:,} of {counted(progress.planned, 'trial')}",
            *([", ".join(states)] if states else []),
            running,
        ]
    )
    told = [f"{duration(elapsed)} elapsed"]
    if left is not None:
        told.append(f"about {duration(left)} left")
    elif progress.finished < progress.planned and not progress.paused_text:
        told.append("time left: known once a trial of each method has ended")
    if progress.peak_gpu_mib:
        told.append(f"GPU memory up to {progress.peak_gpu_mib / 1024:.1f} GiB a trial")
    yield " · ".join(told)


def _newest_best(progress: Progress) -> str:
    best = progress.newest_best
    if best is None:
        return ""
    # Scores of different tasks are not compared.
    words = "best so far" if len(progress.plan.tasks) == 1 else "newest best"
    if len(progress.plan.tasks) == 1:
        bests = [study.best for study in progress.studies.values() if study.best]
        best = max(bests, key=lambda trial: trial.val_accuracy or 0.0)
    unit = progress.plan.objective(best.study).unit
    return f"{words}: {best.study} #{best.number}, {points(best)} {unit}: {progress.searched(best)}"


def _studies(progress: Progress, console: Terminal, options: ConsoleOptions, height: int) -> Lines:
    """The studies that fit into so many rows, and how many more there are."""
    studies = list(progress.studies.values())
    for number in range(min(len(studies), max(1, height)), 0, -1):
        shown = studies if number == len(studies) else _first(studies, number)
        lines = console.render_lines(_table(progress, console, options, shown), options, pad=False)
        if more := _more([study for study in studies if study not in shown]):
            lines += console.render_lines(_as_text(more), options, pad=False)
        if len(lines) <= height:
            return lines
    return []


def _first(studies: Sequence[StudyProgress], number: int) -> list[StudyProgress]:
    """Those that run, then those whose trials ended last, then those that wait."""
    places = {study.name: place for place, study in enumerate(studies)}
    return sorted(studies, key=lambda one: (not one.running, -one.newest, places[one.name]))[
        :number
    ]


def _more(others: Sequence[StudyProgress]) -> str:
    """`and 97 more studies (42 done, 55 waiting)`."""
    kinds = Counter(_kind(study) for study in others)
    told = ", ".join(f"{kinds[kind]:,} {kind}" for kind in _KINDS if kinds[kind])
    return f"and {counted(len(others), 'more study')} ({told})" if others else ""


_KINDS = ("done", "running", "begun", "waiting")


def _kind(study: StudyProgress) -> str:
    if study.finished >= study.planned:
        return "done"
    if study.running:
        return "running"
    return "begun" if study.finished else "waiting"


def _table(
    progress: Progress, console: Terminal, options: ConsoleOptions, shown: Sequence[StudyProgress]
) -> Table:
    """With as many columns as fit side by side; names that do not fit even so are folded."""
    columns = _columns(progress, shown)
    table = _table_of(columns)
    for title in FIRST_TO_GO:
        if console.whole_width(table) <= options.size.width:
            break
        columns.pop(title, None)
        table = _table_of(columns)
    return table


def _table_of(columns: Mapping[str, Sequence[str | Text]]) -> Table:
    table = Table(box=None, pad_edge=False)
    shown = {title: cells for title, cells in columns.items() if title != NOW[1]}
    if NOW[0] not in columns and NOW[1] in columns:
        shown = dict(columns)
    for title in shown:
        is_text = title in (*NAMES, *NOW, "best configuration")
        name = title.partition(",")[0]
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _columns(progress: Progress, shown: Sequence[StudyProgress]) -> dict[str, list[str | Text]]:
    """Cells by the title of their column; without those that would be empty."""
    columns: dict[str, list[str | Text]] = {
        "task": [study.task for study in shown],
        "method": [study.space for study in shown],
        "done": [f"{study.finished}/{study.planned}" for study in shown],
        "running": [str(len(study.running)) for study in shown],
        "pruned": [str(study.pruned) for study in shown],
        "failed": [
            Text(str(study.failed), style="bold" if study.failed else "") for study in shown
        ],
        "best val": [_best(progress, study) for study in shown],
        NOW[0]: [_now(study, 3) for study in shown],
        NOW[1]: [_now(study, 1) for study in shown],
        "best configuration": [
            progress.searched(study.best) if study.best else "" for study in shown
        ],
    }
    empty = [title for title in (*NOW, "best configuration") if not any(columns[title])]
    return {title: cells for title, cells in columns.items() if title not in empty}


def _best(progress: Progress, study: StudyProgress) -> str:
    unit = progress.plan.objective(study.name).unit
    return f"{points(study.best)} {unit}" if study.best else ""


def _now(study: StudyProgress, most: int) -> str:
    """`#7 epoch 12, #9 epoch 3 and 2 more`."""
    running = sorted(study.running.items())
    told = ", ".join(f"#{number} epoch {epochs}" for number, epochs in running[:most])
    rest = len(running) - most
    return f"{told} and {rest} more" if rest > 0 else told
