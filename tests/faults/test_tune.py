"""What we change of Ray Tune, seen in real runs of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plans import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.ray


def heard(*options: object) -> dict[str, Any]:
    script = Path(__file__).with_name("short_trials.py")
    command = [sys.executable, str(script), *map(str, options)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST_WAIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("slots", [1, 2])
def test_trials_that_ended_are_forgotten(slots: int):
    told = heard("--slots", slots, "--trials", 30)
    assert told["ended"] == 30
    assert told["remembered"] <= 2 * slots + 1


def test_a_worker_that_died_while_it_had_nothing_to_do_costs_no_trial():
    told = heard("--slots", 2, "--trials", 6, "--kill-idle")
    assert len(told["died"]) == 1, "the trial that was given to the dead worker"
    assert told["lost"] == [], "Tune gave it up after one death"
    assert told["ended"] == 6


def test_a_trial_goes_to_a_worker_that_holds_its_task():
    told = heard("--slots", 2, "--trials", 60, "--tasks", 6)
    assert sum(sum(tasks.values()) for tasks in told["of_workers"]) == 60
    first_of_a_task = sum(len(tasks) for tasks in told["of_workers"])
    # Each is new to one worker, and the last perhaps to the other, which has nothing else to do.
    assert first_of_a_task <= 7
