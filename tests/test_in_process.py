"""The engine of this process: runs one after the other, and ends in order."""

import bdb
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plans import curve_to, trial_facts

from orchestrator.cluster.slots import Slots
from orchestrator.run.engine import choose_engine
from orchestrator.run.in_process import InProcess
from orchestrator.run.queue import Failed, Finished, Report, Run

ENGINE = InProcess(Slots(num_slots=1, cpu_threads=1, gpus_per_trial=0))
CONTEXT: Any = SimpleNamespace(
    device="cpu", gpu_share=1.0, pruner=SimpleNamespace(asked_at=lambda epoch: True)
)
EPOCHS = 3


class ShortTrial:
    """Trains nothing, and does in its second epoch what its configuration says."""

    num_epochs = EPOCHS

    def __init__(self, config: Any, context: Any, worker_cache: Any, *, checkpoint: Path) -> None:
        self._config = config

    def epochs(self) -> Iterator[dict[str, float]]:
        for row in curve_to(0.5, EPOCHS):
            if row["epoch"] == 2:
                self._config.in_the_second_epoch()
            yield row

    def facts(self) -> Any:
        return trial_facts([])

    def save(self, path: Path) -> None:
        pass


class ShortQueue:
    """Of runs on these tasks; writes down what it hears."""

    num_slots = None

    def __init__(self, tasks: Sequence[str], action: Any = lambda: None) -> None:
        self._left = [SimpleNamespace(task=task, in_the_second_epoch=action) for task in tasks]
        self.held: list[list[str]] = []
        self.heard: dict[str, list[Report]] = {}
        self.forgotten: list[str] = []

    @property
    def num_left(self) -> int:
        return len(self._left)

    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Any:
        if not self._left:
            return "finished"
        self.held.append(list(held))
        self.heard[run_id] = []
        kind: Any = ShortTrial
        return Run(kind, self._left.pop(0), f"/nowhere/{run_id}")

    def reported(self, run_id: str, report: Report) -> bool:
        self.heard[run_id].append(report)
        return report.end is not None

    def worker_died(self, run_id: str, reason: str) -> None:
        raise AssertionError(reason)

    worker_lost = worker_died

    def forget(self, run_id: str) -> None:
        self.forgotten.append(run_id)


def run(queue: ShortQueue, **options: Any) -> list[int]:
    """How many reports were heard of each run."""
    ENGINE.run(queue, CONTEXT, sweep="short", **options)
    assert queue.forgotten == list(queue.heard)
    return [len(reports) for reports in queue.heard.values()]


def test_runs_come_one_after_the_other_and_what_the_process_holds_is_told():
    queue = ShortQueue(["a", "b", "a"])
    assert run(queue) == [EPOCHS, EPOCHS, EPOCHS]
    assert queue.held == [[], ["a"], ["b", "a"]]
    for first, *between, last in queue.heard.values():
        assert [report.end for report in (first, *between)] == [None, None]
        assert last.end == Finished()
        assert first.facts.memory_share == 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_epoch_and_the_run_stays_to_be_run_again(number):
    queue = ShortQueue(["a", "b"], lambda: os.kill(os.getpid(), number))
    assert run(queue) == [2]
    assert queue.heard["0"][-1].end is None
    assert queue.num_left == 1


def test_the_caller_has_its_threads_and_its_random_numbers_again():
    threads = torch.get_num_threads()

    def trains() -> None:
        torch.set_num_threads(threads + 1)
        torch.manual_seed(7)

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run(ShortQueue(["a"], trains))
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_the_end_of_the_time_is_one_of_the_sweep():
    queue = ShortQueue(["a", "b"], lambda: time.sleep(0.3))
    assert run(queue, max_seconds=0.2) == [2]
    assert queue.num_left == 1


def test_what_a_run_raises_is_told_with_its_place_and_the_next_one_runs():
    def fails() -> None:
        raise KeyError("no such thing")

    queue = ShortQueue(["a", "b"], fails)
    assert run(queue) == [2, 2]
    end = queue.heard["1"][-1].end
    assert isinstance(end, Failed) and end.fault == "unexpected"
    assert end.reason.startswith("KeyError: 'no such thing' (test_in_process.py:")


def test_who_leaves_the_debugger_leaves_the_sweep_and_no_trial_fails(caplog):
    def leaves() -> None:
        raise bdb.BdbQuit

    queue = ShortQueue(["a", "b"], leaves)
    assert run(queue) == [1]
    assert "the debugger was left" in caplog.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "local", "num_slots": 4}, "--engine local .* found --slots 4"),
        ({"name": "local", "ray_address": "auto"}, "--engine local .* cluster auto .*RAY_ADDRESS"),
        ({"name": "local", "gpu_kind": "L4"}, "--gpu-kind"),
        ({"name": "lokal"}, "unknown --engine 'lokal'; did you mean 'local'"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        choose_engine(**options)


def test_the_local_engine_has_one_slot():
    assert choose_engine("local").slots.num_slots == 1
    assert choose_engine("local", num_slots=1, cpu_threads=1).slots.cpu_threads == 1
