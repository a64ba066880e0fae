"""Slots fit the machine, and a wish that does not fit is refused."""

import pytest

from orchestrator.slots import Slots, choose_slots


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"cpus": 2, "gpus": 0}, (2, 1, 0)),
        ({"cpus": 1, "gpus": 0}, (1, 1, 0)),
        ({"cpus": 64, "gpus": 0}, (8, 8, 0)),
        ({"cpus": 16, "gpus": 4}, (4, 4, 1)),
        ({"cpus": 16, "gpus": 1, "gpus_per_trial": 0.25}, (4, 4, 0.25)),
        ({"cpus": 2, "gpus": 1, "gpus_per_trial": 0.1}, (2, 1, 0.1)),
        ({"cpus": 16, "gpus": 4, "gpus_per_trial": 0}, (8, 2, 0)),
        ({"cpus": 8, "gpus": 0, "num_slots": 2}, (2, 4, 0)),
        ({"cpus": 8, "gpus": 0, "cpu_threads": 4}, (2, 4, 0)),
    ],
)
def test_slots_fill_the_machine(wish: dict[str, float], expected: tuple[int, int, float]):
    num_slots, cpu_threads, gpus_per_trial = expected
    assert choose_slots(**wish) == Slots(
        num_slots=num_slots, cpu_threads=cpu_threads, gpus_per_trial=gpus_per_trial
    )


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"cpus": 2, "gpus": 0, "num_slots": 3}, "--slots 3 with 1 CPU threads each do not fit"),
        ({"cpus": 2, "gpus": 0, "cpu_threads": 4}, "there are 2 CPUs"),
        ({"cpus": 2, "gpus": 0, "gpus_per_trial": 1}, "there are 0 GPUs"),
        ({"cpus": 2, "gpus": 0, "num_slots": 0}, "at least 1"),
    ],
)
def test_a_wish_that_does_not_fit_is_refused(wish: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        choose_slots(**wish)
