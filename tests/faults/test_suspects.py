"""Failures that are the machine's must not burn the plan."""

from pathlib import Path
from typing import Literal

import pytest
from plans import curve_to, make_plan, make_record, trial_facts

from orchestrator.record.record import Record
from orchestrator.run.queue import Failed, Finished, Report
from orchestrator.run.search_queue import SAME_FAILURES, SearchQueue

FULL = "OSError: [Errno 28] No space left on device: 'trials/{}.part' (trial.py:240)"


def failed(reason: str, fault: Literal["config", "unexpected", "machine"]) -> Report:
    return Report(rows=[], facts=trial_facts([]), end=Failed(reason, fault))


def fail_unexpectedly(queue: SearchQueue, number: int, reason: str = FULL) -> None:
    assert queue.next_run(str(number)) != "finished"
    assert queue.reported(str(number), failed(reason.format(number), "unexpected"))
    queue.forget(str(number))


def states(record: Record) -> list[str]:
    return [trial.state for trial in record.all_trials()]


@pytest.fixture
def queue(tmp_path: Path) -> SearchQueue:
    return SearchQueue(make_record(make_plan(num_trials=9), tmp_path), tmp_path / "trials", [])


def test_a_broken_environment_stops_the_sweep_and_costs_no_trial(queue, tmp_path):
    for number in range(SAME_FAILURES):
        fail_unexpectedly(queue, number)
    assert queue.next_run("next") == "finished"
    assert queue.stop_reason is not None and "No space left on device" in queue.stop_reason
    assert states(queue.record) == ["running"] * SAME_FAILURES
    again = SearchQueue(queue.record, tmp_path / "trials", [])
    assert again.num_left == 9, "resume runs those trials again"


def test_a_success_between_shows_that_the_failures_were_the_trials_own(queue):
    fail_unexpectedly(queue, 0)
    rows = curve_to(0.5, 4)
    queue.next_run("1")
    assert queue.reported("1", Report(rows=rows, facts=trial_facts(rows), end=Finished()))
    assert states(queue.record) == ["failed", "complete"]
    for number in range(2, 2 + SAME_FAILURES - 1):
        fail_unexpectedly(queue, number)
    assert queue.stop_reason is None


def test_failures_for_different_reasons_do_not_stop_the_sweep(queue):
    for number in range(9):
        fail_unexpectedly(queue, number, f"{'Value' if number % 2 else 'Key'}Error: {{}}")
    assert queue.stop_reason is None
    assert states(queue.record) == ["failed"] * 9


def test_configurations_that_cannot_be_trained_never_stop_a_sweep(queue):
    for number in range(9):
        queue.next_run(str(number))
        assert queue.reported(str(number), failed("loss is nan at epoch 1", "config"))
    assert queue.stop_reason is None
    assert states(queue.record) == ["failed"] * 9


def test_a_worker_that_dies_too_often_fails_its_trial_with_the_reason(tmp_path: Path):
    record = make_record(make_plan(num_trials=1), tmp_path)
    queue = SearchQueue(record, tmp_path / "trials", [])
    queue.next_run("only")
    for _ in range(3):
        queue.worker_died("only", "its process was killed or crashed")
    queue.worker_lost("only", "its process was killed or crashed")
    (trial,) = record.all_trials()
    assert trial.state == "failed"
    assert trial.failure == "its worker died 3 times, last: its process was killed or crashed"
