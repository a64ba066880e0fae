"""What is seen while a sweep runs: on any terminal, also a resized one, and when it is stopped."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plans import facts_of, make_plan
from screen import Screen
from synthetic_sweep import synthetic_plan

from orchestrator.cli.live import LiveView, shown_in_place
from orchestrator.cli.study_view import fitted
from orchestrator.cli.terminal import Terminal
from orchestrator.data.vtab import OFFICIAL_TASKS
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import TrialRecord
from orchestrator.run.progress import Progress

HINT = "Ctrl-C stops, and `orchestrator resume sweeps/x` goes on"
SPACES = ("linear", "vpt_shallow", "vpt_deep", "spt_deep", "full", "gatevpt", "lspt")


class NothingYet:
    """A record without trials."""

    def each_trial(self) -> Iterator[TrialRecord]:
        return iter(())


def trial(plan: SweepPlan, study: str, number: int, state: str, epochs: int = 0) -> TrialRecord:
    space = plan.parsed_spaces[plan.study(study).space]
    values: dict[str, Any] = {d.name: 10 for d in space.dimensions} | {"lr": 0.0012345678}
    rows = [
        {"epoch": epoch + 1, "train_seconds": 1.0, "eval_seconds": 0.0} for epoch in range(epochs)
    ]
    return TrialRecord(
        study=study,
        number=number,
        state=state,
        config={**space.fixed, **values},
        val_accuracy=None if state in ("running", "failed") else (number % 50) / 50,
        curve=rows,
        failure=None,
        seed=0,
        started=None,
        finished=None,
        facts={**facts_of(rows), "device": "NVIDIA H100", "peak_memory_mib": 3072.0}
        if rows
        else {},
    )


def progress_of(plan: SweepPlan, *, done: int, begun: int, running: int) -> Progress:
    """The last studies of the plan run, the first are done, those after them begun."""
    progress = Progress(plan, NothingYet())  # type: ignore[arg-type]
    names = [study.name for study in plan.studies]
    for place, name in enumerate(names[: done + begun]):
        for number in range(plan.study(name).num_trials if place < done else 1):
            state = ("complete", "pruned", "failed")[number % 3] if place < done else "complete"
            epochs = 100 if state == "complete" else 15
            progress.trial_started(trial(plan, name, number, "running"))
            progress.trial_ended(trial(plan, name, number, state, epochs))
    for name in names[len(names) - running :]:
        progress.trial_started(trial(plan, name, 0, "running"))
        progress.trial_epochs(name, 0, [{"epoch": 7}])
    return progress


def shown(progress: Progress, width: int, height: int) -> list[str]:
    console = Terminal()
    console.size = (width, height)  # type: ignore[assignment]
    lines = fitted(progress, console, console.options, elapsed=60, left=90, hint=HINT)
    return ["".join(part.text for part in line).rstrip() for line in lines]


@pytest.mark.parametrize(
    ("spaces", "num_tasks", "width", "height"),
    [(7, 19, 80, 24), (2, 18, 80, 24), (7, 19, 60, 15), (7, 19, 200, 60)],
)
def test_it_fits_and_says_what_matters_most(spaces, num_tasks, width, height):
    tasks = tuple(OFFICIAL_TASKS)[:num_tasks]
    plan = synthetic_plan(tasks=tasks, spaces=SPACES[:spaces], num_trials=6)
    num_studies = len(plan.studies)
    progress = progress_of(plan, done=10, begun=10, running=2)
    lines = shown(progress, width, height)
    assert len(lines) <= height - 2 and max(map(len, lines)) <= width
    text = " ".join(line.strip() for line in lines)
    assert f"70 of {num_studies * 6} trials" in text and "30 complete, 20 pruned, 20 failed" in text
    assert "2 running" in text and "elapsed" in text
    assert "`orchestrator resume sweeps/x`" in text.replace("  ", " ")
    first = next(place for place, line in enumerate(lines) if line.startswith("task")) + 1
    running = [f"{study.task} {study.space}" for study in plan.studies[-2:]]
    assert {" ".join(line.split()[:2]) for line in lines[first : first + 2]} == set(running)
    (more,) = re.findall(r"and (\d+) more studies \(([^)]*)\)", text)
    rows = next(place for place, line in enumerate(lines) if line.startswith("and ")) - first
    assert int(more[0]) == num_studies - rows
    assert sum(map(int, re.findall(r"\d+", more[1]))) == int(more[0])


def test_totals_and_hint_are_seen_where_nothing_else_fits():
    plan = synthetic_plan(spaces=("linear",), num_trials=6)
    lines = shown(progress_of(plan, done=1, begun=1, running=1), 40, 8)
    assert len(lines) <= 6 and "7 of 114 trials" in lines[0] and "goes on" in lines[-1]


def test_the_newest_best_is_named_by_what_was_searched():
    plan = synthetic_plan(spaces=("linear",), num_trials=6)
    text = " ".join(shown(progress_of(plan, done=0, begun=3, running=1), 80, 24))
    assert "newest best: dtd.linear #0, 0.0 %: lr 0.00123, weight_decay 10" in text
    assert "GPU memory up to 3.0 GiB a trial" in text


def test_long_names_are_whole_and_columns_go_first():
    name = "a_task_with_a_name_that_is_rather_long_for_a_terminal"
    plan = synthetic_plan(tasks=(name, "b"), spaces=("linear", "vpt_deep"), num_trials=6)
    progress = progress_of(plan, done=0, begun=1, running=1)
    wide, narrow = shown(progress, 130, 24), shown(progress, 110, 24)
    assert "running" in wide[0] and "running" not in narrow[0]
    assert all("#0 epoch 7" in " ".join(lines) for lines in (wide, narrow))
    assert "epoch" not in " ".join(shown(progress, 80, 24))
    assert all(any(name in line for line in lines) for lines in (wide, narrow))
    folded = shown(progress, 40, 24)
    assert name in "".join(line.split("  ")[0] for line in folded[1:5])
    assert "…" not in "".join(folded)


def test_few_studies_keep_their_order_and_say_what_runs():
    plan = synthetic_plan(tasks=("dtd",), spaces=("linear", "vpt_deep"), num_trials=6)
    lines = shown(progress_of(plan, done=0, begun=1, running=1), 100, 24)
    assert [line.split()[1] for line in lines[1:3]] == ["linear", "vpt_deep"]
    assert lines[2].endswith("#0 epoch 7") and "more" not in " ".join(lines)


def test_the_time_left_is_told_when_every_method_has_an_ended_trial():
    plan = synthetic_plan(tasks=("dtd", "svhn"), spaces=("linear", "vpt_deep"), num_trials=6)
    assert progress_of(plan, done=0, begun=1, running=1).seconds_left() is None
    assert progress_of(plan, done=0, begun=2, running=1).seconds_left() is not None
    done = progress_of(plan, done=4, begun=0, running=0)
    assert done.seconds_left() == 0


def test_pruned_trials_do_not_promise_too_much():
    """Four trials at a time: two of them were pruned after 15 of 100 epochs, two still run."""
    plan = synthetic_plan(tasks=("dtd",), spaces=("linear",), num_trials=4)
    progress = Progress(plan, NothingYet())  # type: ignore[arg-type]
    name = plan.studies[0].name
    for number in range(4):
        progress.trial_started(trial(plan, name, number, "running"))
    for number in range(2):
        progress.trial_epochs(name, number + 2, [{"epoch": 15}])
        progress.trial_ended(trial(plan, name, number, "pruned", 15))
    assert progress._pace.seconds_left(
        {name: {2: 15, 3: 15}}, {}, worker_seconds=31.0, in_seconds=31.0
    ) == pytest.approx(85.0)


def test_a_line_that_no_longer_fits_leaves_nothing_behind():
    screen, console = Screen(60, 24), Terminal()
    console.file = screen  # type: ignore[assignment]
    console._force_terminal = console.is_interactive = True
    console.size = (60, 24)  # type: ignore[assignment]
    with shown_in_place(
        console, lambda options: console.render_lines("x" * 55, options, pad=False)
    ):
        console.print("before")
        assert screen.text.split() == ["before", "x" * 55]
        screen.narrowed(20)
        console.size = (20, 24)  # type: ignore[assignment]
        console.print("after")
        assert screen.text.split() == ["before", "after", "x" * 20, "x" * 20, "x" * 15]
    assert screen.text == "before\nafter"


STOPPED = """
import os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
from test_live_view import NothingYet, progress_of
from plans import make_plan
from orchestrator.cli.live import LiveView
from orchestrator.cli.terminal import Terminal
from orchestrator.support.stopping import ending_in_order, listen, stop_requested

listen()
progress = progress_of(make_plan(spaces=("linear",)), done=0, begun=0, running=1)
console = Terminal()
print("planned", flush=True)
with ending_in_order(), LiveView(progress, console, resume="orchestrator resume x"):
    while not stop_requested():
        time.sleep(0.05)
    time.sleep(1)
console.print("the table that stays")
"""


def test_ctrl_c_is_acknowledged_and_leaves_one_clean_end():
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    script = STOPPED.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        screen, stopped = Screen(80, 24), False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            select.select([ours], [], [], 0.2)
            try:
                written = os.read(ours, 65536).decode()
            except BlockingIOError:
                continue
            except OSError:  # the other end is closed
                break
            screen.write(written)
            if not stopped and "Ctrl-C stops, and" in screen.text:
                stopped = True
                os.write(ours, b"\x03")  # also echoed, as a terminal does
                process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.returncode == 0 and stopped
    assert screen.text.splitlines() == [
        "planned",
        "SIGINT: stopping, 1 trial is stopped; `orchestrator resume x` goes on. Ctrl-C on",
        "ce more stops at once",
        "the table that stays",
    ]


def test_a_log_has_a_line_for_each_trial_and_names_a_new_best(monkeypatch):
    plan = make_plan(spaces=("linear",))
    progress, written = Progress(plan, NothingYet()), io.StringIO()  # type: ignore[arg-type]
    console = Terminal()
    console.file = written
    name = plan.studies[0].name
    with LiveView(progress, console, resume="orchestrator resume x") as view:
        for number, state in enumerate(("complete", "pruned")):
            progress.trial_started(trial(plan, name, number, "running"))
            ended = trial(plan, name, number, state, 1)
            progress.trial_ended(ended)
            view.trial_ended(ended)
    first, second = written.getvalue().splitlines()
    assert "after 1 epoch val 0.0 % (the best so far: lr 0.00123, weight_decay 10)" in first
    assert "1/4 trials" in first and "(best 0.0 % by #0)" in second
