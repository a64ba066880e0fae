"""`status` says whether a sweep runs, how long it ran and still takes, and how to go on."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from plans import make_plan, run_trial, wait_for
from screen import Screen
from test_live_view import trial

from orchestrator.api.sweep import Sweep
from orchestrator.cli import status as status_command
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.plan import save_plan
from orchestrator.record.owner import Driver, owned
from orchestrator.record.record import Record, open_record
from orchestrator.report.sweep_state import sweep_state

BEGAN = datetime(2026, 11, 20, 8, 0)


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> tuple[Sweep, Record]:
    monkeypatch.delenv("ORCHESTRATOR_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    plan = make_plan(spaces=("linear",), num_trials=3)
    folder = tmp_path / "sweeps" / "x"
    folder.mkdir(parents=True)
    save_plan(plan, folder)
    record = open_record(plan, folder)
    run_trial(record, plan.studies[0].name, accuracy=0.7)
    run_trial(record, plan.studies[0].name, ending="running")
    return Sweep.open(folder), record


def end(record: Record) -> None:
    """The trial that runs, and the one that waits."""
    study = record.plan.studies[0].name
    record.fail(study, 1, reason="loss is nan")
    run_trial(record, study, ending="pruned")


def test_a_sweep_that_nobody_runs_says_how_to_go_on(sweep):
    found, _ = sweep
    head, numbers = status_command.state_lines(found)
    assert head == "not running; go on with: orchestrator resume sweeps/x"
    assert numbers.startswith("1 of 3 trials: 1 complete · ") and "left" not in numbers


def test_a_sweep_that_runs_names_its_driver_and_counts_what_runs(sweep):
    found, _ = sweep
    with owned(found.folder):
        head, numbers = status_command.state_lines(found)
        rows = json.loads(json.dumps(found.status_rows()))
    assert head.startswith("running: process ")
    assert "1 of 3 trials: 1 complete · 1 running · " in numbers and "about " in numbers
    assert rows[0]["sweep_state"] == "running" and "process" in rows[0]["sweep_driver"]
    assert rows[0]["sweep_seconds_left"] > 0 and rows[0]["complete"] == 1
    assert found.status_rows()[0]["sweep_state"] == "stopped"
    assert found.status_rows()[0]["sweep_seconds_left"] is None


def test_a_search_that_is_over_says_so(sweep):
    found, record = sweep
    end(record)
    assert status_command.state_lines(found)[0] == "the search is done"
    with owned(found.folder):
        assert "at work on it: process" in status_command.state_lines(found)[0]


def test_pauses_do_not_count():
    plan = make_plan(spaces=("linear",), num_trials=4)
    name = plan.studies[0].name

    def ran(number: int, begin: float, seconds: float):
        made = trial(plan, name, number, "complete", epochs=1)
        started = BEGAN + timedelta(seconds=begin)
        return type(made)(
            **{
                **vars(made),
                "facts": {"wall_seconds": seconds},
                "started": started,
                "finished": started + timedelta(seconds=seconds),
            }
        )

    trials = [ran(0, 0, 60), ran(1, 61, 60), ran(2, 86_400, 30)]
    state = sweep_state(plan, trials, None, sees_driver=True)
    assert (state.state, state.elapsed, state.left) == ("stopped", 151, None)
    # A driver on a machine that is ten hours ahead began a minute ago.
    driver = Driver(who="process 7 on node-1", since=datetime.now(UTC) - timedelta(minutes=1))
    running = trial(plan, name, 3, "running")
    later = datetime.now() + timedelta(hours=10)
    running = type(running)(**{**vars(running), "started": later})
    assert sweep_state(plan, [*trials, running], driver, sees_driver=True).elapsed < 220
    assert sweep_state(plan, trials, None, sees_driver=False).state == "unknown"


@pytest.mark.parametrize(
    ("ended_ago", "begun_ago", "driver_ago"),
    [(7_000, 3_400, 7_010), (72_000, 1_800, 1_810)],
    ids=["trials of an hour", "resumed after a night"],
)
def test_the_time_that_running_trials_took_is_counted(ended_ago, begun_ago, driver_ago):
    """Two at a time, of an hour each: two ended, two run, sixteen wait for eight hours more."""
    plan = make_plan(spaces=("linear",), num_trials=20)
    epochs = plan.parsed_spaces["linear"].fixed["epochs"]

    def began(number: int, ago: float, state: str):
        started = datetime.now() - timedelta(seconds=ago)
        done = epochs if state == "complete" else int(epochs * ago / 3600)
        made = trial(plan, plan.studies[0].name, number, state, epochs=done)
        ended = {} if state == "running" else {"finished": started + timedelta(hours=1)}
        facts = {"wall_seconds": 3600.0} if ended else {}
        return type(made)(**{**vars(made), "facts": facts, "started": started, **ended})

    trials = [began(number, ended_ago, "complete") for number in (0, 1)]
    trials += [began(number, begun_ago, "running") for number in (2, 3)]
    since = datetime.now(UTC) - timedelta(seconds=driver_ago)
    state = sweep_state(plan, trials, Driver(who="process 7", since=since), sees_driver=True)
    assert state.left == pytest.approx(8.5 * 3600, rel=0.2)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_watching_ends_with_the_sweep_and_leaves_one_table(sweep, monkeypatch, is_terminal):
    found, record = sweep
    screen, console = Screen(80, 24), Terminal()
    console.file = screen  # type: ignore[assignment]
    console._force_terminal = console.is_interactive = is_terminal
    console.size = (80, 24)  # type: ignore[assignment]
    monkeypatch.setattr(status_command, "console", console)
    seen = []

    def drive() -> None:
        with owned(found.folder):
            begun.set()
            wait_for(lambda: "1 running" in screen.text)
            seen.append(screen.text)
            end(record)

    begun, driver = threading.Event(), threading.Thread(target=drive)
    driver.start()
    begun.wait()
    status_command._watch(found, 0.1)
    driver.join()
    status_command.show_state(found)
    status_command.show_sweep(found)
    assert "1 of 3 trials" in seen[0] and "1 running" in seen[0]
    assert ("Ctrl-C ends this" in seen[0]) == is_terminal
    assert screen.text.count("majority") + screen.text.count("task ") == 1
    assert "the search is done" in screen.text and "failed: caltech101.linear #1" in screen.text
