"""What people ask of a sweep that runs: kept in order, heeded by its driver or the next one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plans import curve_to, make_plan, make_record, run_trial, trial_facts, wait_for

from orchestrator.api.steering import Asked
from orchestrator.api.sweep import Sweep
from orchestrator.cli.status import state_lines
from orchestrator.plan.plan import SweepPlan, save_plan
from orchestrator.record.record import Record, open_record
from orchestrator.record.requests import Wish, ask, requests
from orchestrator.record.steering import plan_now, steering_of
from orchestrator.run.queue import Finished, Report, Run
from orchestrator.run.search_queue import SearchQueue
from orchestrator.run.steering_watch import SteeringWatch

TASKS = ("caltech101", "svhn")
FIRST, SECOND = "caltech101.linear", "svhn.linear"


def two_studies(num_trials: int = 3) -> SweepPlan:
    return make_plan(tasks=TASKS, spaces=("linear",), num_trials=num_trials)


def queue_of(record: Record, folder: Path) -> tuple[SearchQueue, SteeringWatch]:
    watch = SteeringWatch(record, num_slots=4)
    return SearchQueue(record, folder / "trials", [], watch), watch


def begin(queue: SearchQueue, name: str) -> str | None:
    """The study of the trial that is handed out; None: nothing for now."""
    run = queue.next_run(name)
    if isinstance(run, Run):
        return run.config.study
    return run


def end(queue: SearchQueue, name: str) -> None:
    rows = curve_to(0.5, 4)
    assert queue.reported(name, Report(rows=rows, facts=trial_facts(rows), end=Finished()))
    queue.forget(name)


def hand_out_all(queue: SearchQueue) -> list[str]:
    """The studies of all trials that are left, run one after the other."""
    studies = []
    while (study := begin(queue, "next")) != "finished":
        assert study is not None
        studies.append(study)
        end(queue, "next")
    return studies


def test_all_that_terminals_ask_at_once_is_kept_and_in_one_order_for_everybody(tmp_path):
    plan = two_studies()
    records = [make_record(plan, tmp_path) for _ in range(4)]
    together = threading.Barrier(len(records))

    def type_in(record: Record) -> None:
        together.wait()
        for _ in range(5):
            ask(record, Wish(more_trials=1))

    terminals = [threading.Thread(target=type_in, args=(record,)) for record in records]
    for terminal in terminals:
        terminal.start()
    for terminal in terminals:
        terminal.join()
    seen = [requests(record) for record in records]
    assert all(one == seen[0] for one in seen)
    assert len({request.number for request in seen[0]}) == 20
    assert steering_of(plan, seen[0]).trials == {FIRST: 23, SECOND: 23}


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ([Wish(more_trials=2)], {FIRST: 5, SECOND: 5}),
        ([Wish(trials=1)], {FIRST: 1, SECOND: 1}),
        ([Wish(trials=1), Wish(more_trials=1), Wish(more_trials=1)], {FIRST: 3, SECOND: 3}),
        ([Wish(stop=(FIRST,))], {FIRST: 0, SECOND: 3}),
        ([Wish(stop=(FIRST,)), Wish(trials=4, go_on=(FIRST,))], {FIRST: 4, SECOND: 4}),
        ([Wish(slots=1), Wish(pause=True), Wish(pause=False)], {FIRST: 3, SECOND: 3}),
        ([Wish(stop=("of another plan",))], {FIRST: 3, SECOND: 3}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_the_trials_of_each_study_are_what_was_asked_in_its_order(wishes, expected, tmp_path):
    record = make_record(two_studies(), tmp_path)
    for wish in wishes:
        ask(record, wish)
    queue, _ = queue_of(record, tmp_path)
    handed_out = hand_out_all(queue)
    assert {study: handed_out.count(study) for study in (FIRST, SECOND)} == expected
    now = plan_now(record.plan, record)
    assert {study.name: study.num_trials for study in now.studies} == expected


def test_what_is_asked_while_trials_run_is_heeded_before_the_next_one_is_handed_out(tmp_path):
    record = make_record(two_studies(), tmp_path)
    queue, watch = queue_of(record, tmp_path)

    def asked(**wish: Any) -> None:
        ask(make_record(record.plan, tmp_path), Wish(**wish))
        watch.look()

    assert {begin(queue, "a"), begin(queue, "b")} == {FIRST, SECOND}
    asked(slots=2)
    assert begin(queue, "c") is None
    asked(slots=3)
    assert begin(queue, "c") is not None
    asked(pause=True)
    assert begin(queue, "d") is None and queue.num_slots == 0
    for name in "abc":
        end(queue, name)
    assert begin(queue, "d") is None, "a pause is not the end"
    asked(pause=False, trials=1)
    assert begin(queue, "d") == "finished", "three were begun, and one of each is wanted"
    assert [trial.state for trial in record.each_trial()] == ["complete"] * 3


def test_more_may_be_asked_until_the_last_trial_has_ended(tmp_path):
    record = make_record(two_studies(1), tmp_path)
    queue, _ = queue_of(record, tmp_path)
    begin(queue, "a")
    begin(queue, "b")
    assert begin(queue, "c") is None
    end(queue, "a")
    end(queue, "b")
    ask(record, Wish(more_trials=1))  # in the very second in which it would have ended
    assert begin(queue, "c") is None and queue.num_left == 2
    assert hand_out_all(queue) == [FIRST, SECOND]


def test_a_study_has_no_more_trials_than_its_space_has_configurations(tmp_path, caplog):
    plan = two_studies()
    choices = {"weight_decay": {"choices": [0.0, 1e-4, 1e-3, 1e-2]}}
    plan = type(plan)(
        **{
            **vars(plan).copy(),
            "spaces": {"linear": {**plan.spaces["linear"], "search": choices}},
        }
    )
    record = make_record(plan, tmp_path)
    ask(record, Wish(more_trials=10))
    queue, _ = queue_of(record, tmp_path)
    assert len(hand_out_all(queue)) == 8
    assert "4 instead of 3 (its space has no more configurations)" in caplog.text


def test_a_trial_that_was_interrupted_goes_on_though_its_study_was_stopped(tmp_path):
    record = make_record(two_studies(), tmp_path)
    record.ask(FIRST)
    again = make_record(record.plan, tmp_path)
    ask(again, Wish(stop=(FIRST,)))
    queue, _ = queue_of(again, tmp_path)
    assert hand_out_all(queue) == [FIRST, SECOND, SECOND, SECOND]


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> Iterator[Sweep]:
    """Of two studies with three trials each, not begun."""
    monkeypatch.delenv("ORCHESTRATOR_STORAGE", raising=False)
    folder = tmp_path / "steered"
    folder.mkdir()
    save_plan(make_plan(name="steered", tasks=TASKS, spaces=("linear",), num_trials=3), folder)
    yield Sweep.open(folder)


def states(sweep: Sweep) -> list[str]:
    return [trial.state for trial in open_record(sweep.frozen_plan, sweep.folder).each_trial()]


Drive = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def drive(sweep) -> Iterator[Drive]:
    """Starts a driver of the sweep as a process."""
    script = Path(__file__).with_name("steered_driver.py")
    started: list[subprocess.Popen[str]] = []

    def start(*options: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(sweep.folder), *map(str, options)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_a_driver_in_another_process_heeds_it_and_says_so(sweep, drive):
    driver = drive("--engine", "local", "--seconds", 1.5, "--max-seconds", 400)
    wait_for(lambda: "complete" in states(sweep))
    asked = sweep.set(pause=True)
    assert asked.request.heeded_at is not None and asked.driver is not None
    assert re.fullmatch(r"heeded by process \d+ on .+ UTC", asked.outlook("resume"))
    wait_for(lambda: "running" not in states(sweep))
    begun = len(states(sweep))
    time.sleep(1)
    assert len(states(sweep)) == begun < 6, "nothing begins in a pause"
    assert any(line.startswith("paused by ") for line in state_lines(sweep))
    sweep.set(trials="+2")  # before the stop, after which nothing may be left to do
    sweep.set(stop_study=SECOND)
    sweep.set(go_on=True)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert f"{SECOND}: stopped" in said and "trials of each study: 5 instead of 3" in said
    assert json.loads(said.splitlines()[-1])["busy"] < 0.9, "it spins while it pauses"
    kept = open_record(sweep.frozen_plan, sweep.folder).trials(FIRST)
    assert [trial.state for trial in kept] == ["complete"] * 5
    assert state_lines(sweep)[0] == "the search is done"


@pytest.mark.slow
def test_a_pause_ends_with_the_time_of_the_sweep(sweep, drive):
    sweep.set(pause=True)
    driver = drive("--engine", "local", "--seconds", 0, "--max-seconds", 2)
    said, _ = driver.communicate()
    assert driver.returncode == 0 and json.loads(said.splitlines()[-1])["left"] == 6
    assert states(sweep) == []


@pytest.mark.slow
def test_killed_before_it_was_heeded_it_is_heeded_by_the_next_driver(sweep, drive):
    driver = drive("--engine", "local", "--seconds", 0.2)
    wait_for(lambda: states(sweep))
    driver.send_signal(signal.SIGSTOP)
    record = open_record(sweep.frozen_plan, sweep.folder)
    ask(record, Wish(trials=1, slots=2))
    driver.kill()
    driver.wait()
    begun = len(states(sweep))
    (request,) = requests(record)
    assert request.heeded_at is None
    assert any(
        line.startswith("not heeded yet: --slots 2 --trials 1") for line in state_lines(sweep)
    )
    again = drive("--engine", "local", "--seconds", 0)
    said, _ = again.communicate()
    assert again.returncode == 0 and "slots: 2 instead of 1, asked by " in said
    (request,) = requests(record)
    assert request.heeded_by is not None and request.heeded_by.startswith(f"process {again.pid} on")
    # One of each study, or what the first driver had begun.
    assert states(sweep) == ["complete"] * max(2, begun)
    third = drive("--engine", "local", "--seconds", 0)
    said, _ = third.communicate()
    assert requests(record) == [request], "another driver knows it, and heeds nothing anew"
    assert "slots: 2, asked by " in said and "instead of" not in said


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_slots_are_given_back_and_taken_again_and_a_pause_keeps_no_worker(sweep, drive):
    sweep.set(trials=40)
    driver = drive("--engine", "ray", "--slots", 2, "--seconds", 0.1, "--max-seconds", 400)

    def running() -> int:
        return states(sweep).count("running")

    wait_for(lambda: running() == 2)
    assert sweep.set(slots=1).request.heeded_at is not None
    wait_for(lambda: running() == 1)
    before = len(states(sweep))
    most = 0

    def went_on() -> bool:
        nonlocal most
        most = max(most, running())
        return len(states(sweep)) >= before + 3

    wait_for(went_on)
    assert most == 1
    assert workers_of(driver.pid)
    sweep.set(pause=True)
    wait_for(lambda: running() == 0)
    wait_for(lambda: not workers_of(driver.pid))
    sweep.set(slots=9, go_on=True)
    wait_for(lambda: running() == 2)
    sweep.set(trials=1)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert "9 slots are asked for, and there is room for 2 of 1 CPU thread each" in said
    assert set(states(sweep)) == {"complete"} and len(states(sweep)) < 80
    assert json.loads(said.splitlines()[-1])["busy"] < 0.9, "it spins while it pauses"


def workers_of(driver: int) -> list[str]:
    """The actors below a driver that train."""
    told = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()[1:]]
    below = {str(driver)}
    for _ in range(4):
        below |= {pid for pid, parent, _ in rows if parent in below}
    return [what for pid, _, what in rows if pid in below and "ray::ResourceTrainable" in what]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "nothing is asked for: --slots, --trials"),
        ({"slots": 0}, "--slots must be at least 1, found 0"),
        ({"trials": 0}, "--trials: expected 1 to 10,000,000, or [+]N .* found '0'"),
        ({"trials": "+0"}, "--trials: expected 1 to .* found '[+]0'"),
        ({"trials": "ten"}, "--trials: expected .* found 'ten'"),
        ({"trials": -3}, "--trials: expected .* found '-3'"),
        ({"pause": True, "go_on": True}, "--pause and --go-on: leave one of them out"),
        ({"stop_study": "svhn.liner"}, "unknown study 'svhn.liner'; did you mean 'svhn.linear'"),
        ({"go_on_study": ["x"]}, "--go-on-study: unknown study 'x'; known: caltech101.linear"),
        ({"stop_study": SECOND, "go_on_study": SECOND}, "svhn.linear is named by both"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_leaves_nothing(asked, told, sweep):
    with pytest.raises(ValueError, match=told):
        sweep.set(**asked)
    assert requests(sweep.record) == []


def test_a_search_that_is_over_is_not_steered_but_one_that_was_cut_short_goes_on(sweep):
    record = sweep.record
    for _ in range(2):
        run_trial(record, FIRST)
        run_trial(record, SECOND)
    cut: Asked = sweep.set(trials=1)
    assert cut.changes[-1] == "svhn.linear: 2 trials were begun already, and stay"
    assert state_lines(sweep)[0] == "the search is done"
    assert sweep.set(trials=3).outlook("orchestrator resume x") == (
        "no driver runs the sweep: the next `orchestrator resume x` heeds it"
    )
    assert [row["planned"] for row in sweep.status_rows()] == [3, 3]
    run_trial(record, FIRST)
    run_trial(record, SECOND)
    with pytest.raises(ValueError, match="its search is over, with 6 trials"):
        sweep.set(slots=2)


def test_status_and_report_count_the_trials_that_are_wanted_now(sweep):
    run_trial(sweep.record, FIRST)
    sweep.set(stop_study=SECOND, slots=2, trials=1)
    head, numbers, *asked = state_lines(sweep)
    assert head == "the search is done" and numbers.startswith("1 of 1 trial: 1 complete")
    user = re.escape(requests(sweep.record)[0].asked)
    expected = [
        f"slots: 2, {user}",
        f"svhn.linear: stopped, {user}",
        f"trials of each study: 1, {user}",
        f"not heeded yet: --slots 2 --trials 1 --stop-study svhn.linear, {user}",
    ]
    assert len(asked) == len(expected)
    for line, pattern in zip(asked, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    rows = json.loads(json.dumps(sweep.status_rows()))
    assert [row["planned"] for row in rows] == [1, 0]
    assert rows[0]["sweep_slots_asked"] == 2 and rows[0]["sweep_paused"] is None
    assert rows[0]["sweep_requests"][0]["asked"].startswith("--slots 2")
    assert sweep.report().html


def test_a_number_of_slots_that_is_given_to_resume_goes_before_one_asked_for_earlier(sweep):
    sweep.set(slots=2)
    sweep._keep_slots(None)
    assert steering_of(sweep.frozen_plan, requests(sweep.record)).slots == 2
    sweep._keep_slots(3)
    sweep._keep_slots(3)
    assert [str(one.wish) for one in requests(sweep.record)] == ["--slots 2", "--slots 3"]


def test_who_asked_is_a_number_where_a_container_has_no_name_for_its_user(sweep, monkeypatch):
    def nobody() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert sweep.set(slots=2).request.asked_by.startswith(f"user {os.getuid()} on ")
