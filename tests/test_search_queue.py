"""Which trial is handed out next, and to whom."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import make_plan, make_record

from orchestrator.run.queue import Run
from orchestrator.run.search_queue import SearchQueue

TASKS = ("caltech101", "eurosat", "svhn")
SPACES = ("linear", "vpt_deep")
NUM_TRIALS = 3


def make_queue(folder: Path) -> SearchQueue:
    plan = make_plan(tasks=TASKS, spaces=SPACES, num_trials=NUM_TRIALS)
    return SearchQueue(make_record(plan, folder), folder / "trials", [])


def given_to(queue: SearchQueue, name: str, *held: str) -> str:
    run = queue.next_run(name, held)
    assert isinstance(run, Run)
    return run.config.task


def test_a_worker_is_given_what_it_had_last_as_long_as_its_studies_are_not_ahead(tmp_path):
    queue = make_queue(tmp_path)
    tasks = [given_to(queue, str(n), "svhn", "eurosat") for n in range(len(TASKS) * len(SPACES))]
    assert tasks == ["svhn", "svhn", "eurosat", "eurosat", "caltech101", "caltech101"]
    assert given_to(queue, "next", "svhn", "eurosat") == "svhn"


def test_workers_that_have_nothing_yet_begin_with_different_tasks(tmp_path):
    queue = make_queue(tmp_path)
    assert {given_to(queue, name) for name in "abc"} == set(TASKS)


@pytest.mark.slow
@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(held=st.lists(st.permutations(TASKS).map(lambda tasks: tasks[:2]), min_size=18))
def test_whatever_workers_hold_all_studies_advance_together(tmp_path_factory, held):
    queue = make_queue(tmp_path_factory.mktemp("together"))
    drawn = dict.fromkeys((study.name for study in queue.record.plan.studies), 0)
    for number in range(len(drawn) * NUM_TRIALS):
        run = queue.next_run(str(number), held[number])
        assert isinstance(run, Run)
        drawn[run.config.study] += 1
        assert max(drawn.values()) - min(drawn.values()) <= 1
    assert queue.next_run("one more", held[0]) is None, "more may be asked while these run"
