"""Processes that work at the same time are counted together, and none is waited for without end."""

import os
import time
from collections.abc import Callable
from functools import partial

import psutil
import pytest

from orchestrator.support.side_by_side import TeamFailed, Turns, team


def sleeper(seconds: float = 0.01) -> Turns:
    return {
        "sleep": partial(time.sleep, seconds),
        "environment": partial(os.getenv, "ORCHESTRATOR_OF_A_TEAM"),
        "pid": os.getpid,
        "fail": _fail,
        "crash": partial(os._exit, 3),
    }


def _fail() -> None:
    raise ValueError("no such weather\nand more of it")


def soon() -> float:
    return time.monotonic() + 30


def test_so_many_processes_do_so_many_times_as_much_where_nothing_is_shared():
    with team(sleeper, 3, deadline=soon(), environment={"ORCHESTRATOR_OF_A_TEAM": "ours"}) as found:
        alone, together = (found.turns_per_second("sleep", count, 0.3) for count in (1, 3))
        assert found.result("environment") == "ours"
        process = psutil.Process(found.result("pid"))
    assert 0 < alone <= 100 and alone < together <= 300
    assert not process.is_running()


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (lambda found: found.result("fail"), "^ValueError: no such weather$"),
        (lambda found: found.turns_per_second("fail", 2, 0.1), "no such weather"),
        (lambda found: found.result("crash"), "ended with code 3"),
    ],
)
def test_what_went_wrong_in_a_process_is_told(turn: Callable, said: str):
    with team(sleeper, 2, deadline=soon()) as found, pytest.raises(TeamFailed, match=said):
        turn(found)


def test_a_process_that_cannot_prepare_itself_is_told_of():
    with pytest.raises(TeamFailed, match="no such weather"), team(_fail, 2, deadline=soon()):  # pyright: ignore[reportArgumentType]
        raise AssertionError


def test_a_process_that_hangs_is_not_waited_for_and_ends():
    begun = time.monotonic()
    with team(partial(sleeper, 600), 1, deadline=begun + 1) as found:
        process = psutil.Process(found.result("pid"))
        with pytest.raises(TeamFailed, match="time that was given is over"):
            found.turns_per_second("sleep", 1, 0.1)
    assert time.monotonic() - begun < 300 and not process.is_running()
