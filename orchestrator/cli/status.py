"""`status`: how far a sweep is, once or until it ends; and the table that a sweep ends with."""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.options import Folder, Json, Storage
from orchestrator.cli.terminal import Terminal
from orchestrator.support.counted import counted
from orchestrator.support.near import typed

if TYPE_CHECKING:
    from rich.console import ConsoleOptions

    from orchestrator.api.sweep import Sweep
    from orchestrator.cli.study_view import Lines
    from orchestrator.plan.plan import SweepPlan
    from orchestrator.record.record import Record
    from orchestrator.report.summary import StudySummary
    from orchestrator.report.sweep_state import SweepState

console = Terminal()

Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Renew it until the sweep ends or is stopped.")
]
Every = Annotated[
    float, typer.Option(help="With --watch: seconds from one look to the next.", min=1)
]


def status(
    folder: Folder,
    watch: Watch = False,
    every: Every = 5,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Trials of each study, the best so far, whether somebody runs it now, and the time left.

    orchestrator status sweeps/photos-20261121-120000
    """
    from orchestrator.api.sweep import Sweep

    if watch and as_json:
        raise ValueError("--watch is for people, --json for programs: leave one of them out")
    found = Sweep.open(folder, storage=storage)
    if as_json:
        typer.echo(json.dumps(found.status_rows(), indent=2))
        return
    if watch:
        _watch(found, every)
    show_state(found)
    show_sweep(found)


def show_state(found: "Sweep") -> None:
    """Whether it runs, how far it is, how long it ran and how long it still takes."""
    for line in state_lines(found):
        console.say(line)


def state_lines(found: "Sweep") -> list[str]:
    """What `status` says above its table."""
    from orchestrator.record.steering import steering_lines

    state = found.state()
    return [*_progress_lines(found, state), *steering_lines(state.asked, state.steering)]


def _progress_lines(found: "Sweep", state: "SweepState") -> list[str]:
    from orchestrator.run.progress import duration

    rows = found.summaries()
    planned = sum(row.planned for row in rows)
    counts = {
        name: sum(getattr(row, name) for row in rows) for name in ("complete", "pruned", "failed")
    }
    ended = sum(counts.values())
    running = sum(len(trials) for trials in state.running.values())
    counts["frozen"] = sum(row.frozen for row in rows)
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    numbers = f"{ended:,} of {counted(planned, 'trial')}{f': {told}' if told else ''}"
    ran = f"{duration(state.elapsed)} elapsed"
    match state.state:
        case "running":
            left = "" if state.left is None else f", about {duration(state.left)} left"
            return [f"running: {state.driver}", f"{numbers} · {running:,} running · {ran}{left}"]
        case "stopped":
            again = f"go on with: orchestrator resume {typed(found.folder)}"
            return [f"not running; {again}", f"{numbers} · {ran}"]
        case "unknown":
            return [
                "whether a driver runs it cannot be seen from here",
                f"{numbers} · {running:,} running or left behind · {ran}",
            ]
        case _:
            busy = f"; at work on it: {state.driver}" if state.driver else ""
            return [f"the search is done{busy}", f"{numbers} · {ran}"]


def _watch(found: "Sweep", every: float) -> None:
    """Until no driver runs it, as far as that can be seen; without a terminal a line at a time."""
    if console.is_terminal and not console.is_dumb_terminal:
        _watch_in_place(found, every)
        return
    told = None
    while found.state().state in ("running", "unknown"):
        _, line, *_ = state_lines(found)
        if line != told:
            console.print(line, soft_wrap=True)
            told = line
        time.sleep(every)


def _watch_in_place(found: "Sweep", every: float) -> None:
    from orchestrator.cli.live import shown_in_place
    from orchestrator.cli.study_view import fitted
    from orchestrator.run.progress import Progress
    from orchestrator.support.stopping import acknowledged_by_us

    def look() -> "tuple[Progress, SweepState]":
        with found.reading() as record:
            state = found.state()
            return Progress.seen(found.plan_now(record), record, state.running), state

    seen = [look()]

    def lines(options: "ConsoleOptions") -> "Lines":
        progress, state = seen[-1]
        return fitted(
            progress,
            console,
            options,
            elapsed=state.elapsed,
            left=state.left,
            doing=state.steering.paused_text,
            hint=f"run by {state.driver or 'nobody whom one sees from here'}"
            " · Ctrl-C ends this view alone",
        )

    if seen[-1][1].state not in ("running", "unknown"):
        return
    with acknowledged_by_us(), shown_in_place(console, lines):
        while seen[-1][1].state in ("running", "unknown"):
            time.sleep(every)
            seen[:] = [look()]


def show_sweep(found: "Sweep") -> None:
    """Its table, the best configurations, what to be careful about, and how far the tests are."""
    from orchestrator.report.final import final_results
    from orchestrator.report.tested import stage_lines

    with found.reading() as record:
        plan = found.plan_now(record)
        _show_summary(plan, record)
        # Of the newest round; the numbers are in the report.
        results = final_results(found.folder, plan, record)
        for line in stage_lines(results, plan, record.trials):
            console.say(line)


def _show_summary(plan: "SweepPlan", record: "Record") -> None:
    from orchestrator.report.cautions import cautions
    from orchestrator.report.summary import summary_table

    rows = summary_table(plan, record)
    _show_studies(rows)
    for row in rows:
        if row.config_text:
            console.say(f"best of {row.study}: {row.config_text}")
    for row in rows:
        if row.ended:
            console.say(f"{row.study}: {row.ended}")
    for study in plan.studies:
        for caution in cautions(plan.task(study.task), record.trials(study.name)):
            console.say(f"{study.name}: {caution}")
    failed = [trial for trial in record.each_trial() if trial.state == "failed"]
    for trial in failed[:10]:
        console.say(f"failed: {trial.study} #{trial.number}: {trial.failure}")
    if len(failed) > 10:
        console.say(f"and {len(failed) - 10} more, see results.parquet")


def _show_studies(rows: "Sequence[StudySummary]") -> None:
    """The table, with the share of the most frequent class as its last column where that fits."""
    with_majority = any(row.majority_text for row in rows)
    table = _study_table(rows, with_majority=with_majority)
    if with_majority and console.is_terminal and console.whole_width(table) > console.width:
        console.print_table(_study_table(rows, with_majority=False))
        shares = {row.task: row.majority_text for row in rows if row.majority_text}
        told = ", ".join(f"{task} {share} %" for task, share in shares.items())
        console.say(f"always answering the most frequent class gives: {told}")
    else:
        console.print_table(table)


def _study_table(rows: "Sequence[StudySummary]", *, with_majority: bool) -> Table:
    from orchestrator.training.objective import DEFAULT_METRIC

    table = Table(box=None, pad_edge=False)
    for name in ("task", "method"):
        table.add_column(name, overflow="fold")
    # Plain accuracy needs no name beside it.
    with_metric = any(row.metric != DEFAULT_METRIC for row in rows)
    if with_metric:
        table.add_column("metric", overflow="fold")
    numbers = ["complete", "pruned", "failed", "left", "best val %"]
    for name in [*numbers, "majority %"] if with_majority else numbers:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        cells = [
            row.task,
            row.space,
            *([row.metric] if with_metric else []),
            str(row.complete),
            str(row.pruned),
            Text(str(row.failed), style="red" if row.failed else ""),
            str(row.planned - row.complete - row.pruned - row.failed),
            row.best_text,
        ]
        table.add_row(*cells, row.majority_text) if with_majority else table.add_row(*cells)
    return table
