"""No number of a table is cut: not in a file, and not where the terminal is narrow."""

import io
from dataclasses import replace

import pytest
from plans import make_plan, make_record, run_trial

from orchestrator.cli import report as report_command
from orchestrator.cli import status as status_command
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import Record
from orchestrator.report.collect import collect
from orchestrator.report.table import result_tables

TASK = "a_task_with_a_name_that_is_rather_long"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[SweepPlan, Record]:
    plan = make_plan(tasks=(TASK,), spaces=("linear", "vpt_deep"), num_trials=1)
    plan = replace(plan, tasks=(replace(plan.tasks[0], val_majority=40),))
    record = make_record(plan, tmp_path_factory.mktemp("swept"))
    for study in plan.studies:
        run_trial(record, study.name, accuracy=1.0)
    return plan, record


def terminal(monkeypatch, module, *, width: int, is_terminal: bool) -> io.StringIO:
    shown = io.StringIO()
    console = Terminal()
    console.file, console.width = shown, width
    console._force_terminal = is_terminal
    monkeypatch.setattr(module, "console", console)
    return shown


@pytest.mark.parametrize(
    ("width", "is_terminal", "as_column"),
    [(40, False, True), (120, True, True), (100, True, False)],
)
def test_the_majority_stands_in_the_table_or_below_it(
    swept, monkeypatch, width, is_terminal, as_column
):
    shown = terminal(monkeypatch, status_command, width=width, is_terminal=is_terminal)
    status_command._show_summary(*swept)
    text = shown.getvalue()
    assert TASK in text and "100.0 (≥ 98.1)" in text
    assert ("majority %" in text.splitlines()[0]) == as_column
    line = f"always answering the most frequent class gives: {TASK} 20.0 %"
    assert (line in text.replace("\n", " ")) != as_column


def test_a_narrow_terminal_folds_names_not_numbers(swept, monkeypatch):
    shown = terminal(monkeypatch, status_command, width=80, is_terminal=True)
    status_command._show_summary(*swept)
    assert "…" not in shown.getvalue() and "100.0 (≥ 98.1)" in shown.getvalue()


@pytest.mark.parametrize(("width", "is_terminal"), [(40, False), (60, True)])
def test_a_report_cuts_nothing(swept, monkeypatch, width, is_terminal):
    shown = terminal(monkeypatch, report_command, width=width, is_terminal=is_terminal)
    report_command._show([], result_tables(collect(*swept)))
    assert "…" not in shown.getvalue()
    if not is_terminal:
        assert "100.0 (≥ 98.1)" in shown.getvalue()
