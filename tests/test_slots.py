"""Slots fit the machines, and a wish that does not fit is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.slots import Machine, Slots, choose_slots, in_all


def on_one(*, cpus: float, gpus: float, **wish: Any) -> Slots:
    return choose_slots([Machine(cpus=cpus, gpus=gpus)], **wish)


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
    assert on_one(**wish) == Slots(
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
        on_one(**wish)


L4 = Machine(cpus=4, gpus=1, gpu_kind="L4")
H100 = Machine(cpus=16, gpus=2, gpu_kind="H100")
NO_GPU = Machine(cpus=64)


def test_threads_are_those_of_machines_that_have_what_a_trial_needs():
    assert choose_slots([L4, L4, NO_GPU]) == Slots(num_slots=2, cpu_threads=4, gpus_per_trial=1)
    # The smallest machine decides, or no trial could ever run there.
    assert choose_slots([L4, H100]) == Slots(num_slots=3, cpu_threads=4, gpus_per_trial=1)
    assert choose_slots([NO_GPU, Machine(cpus=2)]).cpu_threads == 2
    # As many trials as wanted, each with as many threads as that leaves.
    assert choose_slots([Machine(cpus=4)] * 4, num_slots=5).cpu_threads == 2
    assert choose_slots([Machine(cpus=4)] * 7).num_slots == 14


def test_a_fraction_is_one_of_a_single_gpu():
    two = [Machine(cpus=16, gpus=2)]
    found = {share: choose_slots(two, gpus_per_trial=share).num_slots for share in (0.6, 0.4, 0.5)}
    assert found == {0.6: 2, 0.4: 4, 0.5: 4}


def test_a_sweep_may_keep_to_one_kind_of_gpu():
    slots = choose_slots([H100], gpu_kind="H100")
    assert (slots.num_slots, slots.cpu_threads, slots.gpus_per_trial) == (2, 8, 1)
    assert slots.ray_resources == {"cpu": 8, "gpu": 1, "accelerator_type:H100": 0.001}
    assert str(slots) == "2 slots of 8 CPU threads and 1 H100 GPU"


@pytest.mark.parametrize(
    ("machines", "wish", "message"),
    [
        ([L4], {"gpu_kind": "L4", "gpus_per_trial": 0}, "a trial is given no GPU"),
        ([L4, L4], {"gpus_per_trial": 2}, "there are 1 GPUs in a machine"),
        ([Machine(cpus=2)] * 4, {"cpu_threads": 4}, "there are 2 CPUs in a machine"),
        ([L4, L4], {"num_slots": 3}, "3 .* do not fit into 8 CPUs and 2 GPUs; 2 would"),
        ([Machine(cpus=0)], {}, "no machine has a CPU for trials"),
    ],
)
def test_what_no_machine_can_do_is_refused(
    machines: list[Machine], wish: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        choose_slots(machines, **wish)


MACHINES = st.lists(
    st.builds(
        lambda cpus, gpus, kind: Machine(cpus=cpus, gpus=gpus, gpu_kind=kind if gpus else None),
        cpus=st.integers(1, 96),
        gpus=st.integers(0, 8),
        kind=st.sampled_from(["L4", "H100"]),
    ),
    min_size=1,
    max_size=6,
)


@given(machines=MACHINES, share=st.sampled_from([None, 0.0, 0.1, 0.25, 0.4, 0.6, 1.0, 2.0]))
def test_all_slots_that_are_chosen_can_run_at_once(machines: list[Machine], share: float | None):
    if share and all(machine.gpus < share for machine in machines):
        return
    slots = choose_slots(machines, gpus_per_trial=share)
    placed = 0
    for machine in machines:
        cpus, gpus = machine.cpus, [1.0] * int(machine.gpus)
        while cpus >= slots.cpu_threads and (room := _room(gpus, slots.gpus_per_trial)) is not None:
            cpus -= slots.cpu_threads
            gpus = room
            placed += 1
    assert 1 <= slots.num_slots <= placed


def _room(gpus: list[float], share: float) -> list[float] | None:
    """What is left of each GPU after one more trial; None where it finds no place."""
    left = list(gpus)
    for index, free in enumerate(left):
        if 0 < share < 1 and free >= share - 1e-6:
            left[index] = free - share
            return left
    if share < 1:
        return left if share == 0 else None
    whole = [index for index, free in enumerate(left) if free == 1.0]
    if len(whole) < share:
        return None
    for index in whole[: int(share)]:
        left[index] = 0.0
    return left


def test_what_ray_says_of_a_node_is_understood():
    node = {"CPU": 4.0, "GPU": 1.0, "accelerator_type:L4": 1.0, "memory": 1e9, "node:10.0.0.1": 1.0}
    assert Machine.of_ray(node) == L4
    assert Machine.of_ray({"CPU": 64.0}) == NO_GPU
    assert in_all([L4, H100, NO_GPU]) == {"CPU": 84, "GPU": 3, "GPU:L4": 1, "GPU:H100": 2}


@pytest.mark.parametrize(("gpus_per_trial", "share"), [(0, 1), (0.25, 0.25), (1, 1), (2, 1)])
def test_a_trial_has_a_part_of_each_gpu_that_it_uses(gpus_per_trial: float, share: float):
    slots = Slots(num_slots=1, cpu_threads=1, gpus_per_trial=gpus_per_trial)
    assert slots.gpu_share == share
