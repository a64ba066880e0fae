"""Failures that are the machine's must not burn the plan."""

from pathlib import Path
from typing import Any

import pytest
from plans import curve_to, facts_of, make_plan, make_record

from orchestrator.record.record import Record
from orchestrator.run.search_queue import SAME_FAILURES, StudyLedger

FULL = "OSError: [Errno 28] No space left on device: 'trials/{}.part' (trial.py:240)"


def result(**said: Any) -> dict[str, Any]:
    rows = said.pop("rows", [])
    facts = {f"facts/{name}": value for name, value in facts_of(rows).items()}
    silent = {"finished": False, "failure": "", "unexpected": False, "blameless": False}
    return {"rows": rows, **silent, **facts, **said}


def fail_unexpectedly(ledger: StudyLedger, number: int, reason: str = FULL) -> None:
    assert ledger.next_run(str(number)) != "finished"
    assert ledger.reported(str(number), result(failure=reason.format(number), unexpected=True))
    ledger.forget(str(number))


def states(record: Record) -> list[str]:
    return [trial.state for trial in record.all_trials()]


@pytest.fixture
def ledger(tmp_path: Path) -> StudyLedger:
    return StudyLedger(make_record(make_plan(num_trials=9), tmp_path), tmp_path / "trials", [])


def test_a_broken_environment_stops_the_sweep_and_costs_no_trial(ledger, tmp_path):
    for number in range(SAME_FAILURES):
        fail_unexpectedly(ledger, number)
    assert ledger.next_run("next") == "finished"
    assert ledger.stop_reason is not None and "No space left on device" in ledger.stop_reason
    assert states(ledger.record) == ["running"] * SAME_FAILURES
    again = StudyLedger(ledger.record, tmp_path / "trials", [])
    assert again.num_left == 9, "resume runs those trials again"


def test_a_success_between_shows_that_the_failures_were_the_trials_own(ledger):
    fail_unexpectedly(ledger, 0)
    rows = curve_to(0.5, 4)
    ledger.next_run("1")
    assert ledger.reported("1", result(rows=rows, finished=True))
    assert states(ledger.record) == ["failed", "complete"]
    for number in range(2, 2 + SAME_FAILURES - 1):
        fail_unexpectedly(ledger, number)
    assert ledger.stop_reason is None


def test_failures_for_different_reasons_do_not_stop_the_sweep(ledger):
    for number in range(9):
        fail_unexpectedly(ledger, number, f"{'Value' if number % 2 else 'Key'}Error: {{}}")
    assert ledger.stop_reason is None
    assert states(ledger.record) == ["failed"] * 9


def test_configurations_that_cannot_be_trained_never_stop_a_sweep(ledger):
    for number in range(9):
        ledger.next_run(str(number))
        assert ledger.reported(str(number), result(failure="loss is nan at epoch 1"))
    assert ledger.stop_reason is None
    assert states(ledger.record) == ["failed"] * 9


def test_a_worker_that_dies_too_often_fails_its_trial_with_the_reason(tmp_path: Path):
    record = make_record(make_plan(num_trials=1), tmp_path)
    ledger = StudyLedger(record, tmp_path / "trials", [])
    ledger.next_run("only")
    for _ in range(3):
        ledger.worker_died("only", "its process was killed or crashed")
    ledger.worker_lost("only", "its process was killed or crashed")
    (trial,) = record.all_trials()
    assert trial.state == "failed"
    assert trial.failure == "its worker died 3 times, last: its process was killed or crashed"
