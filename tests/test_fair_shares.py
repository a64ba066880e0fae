"""Fair shares of a cluster, as a law: nobody idles it, nobody takes what another should have."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.sharing import Claim, fair_shares, may_make_room
from orchestrator.cluster.slots import ROUNDING, Machine

CLAIMS = st.builds(
    lambda slots, wanted, cpus, gpus: Claim(
        sweep="a",
        slots=slots,
        wanted=min(slots, wanted),
        running=0,
        needs={"CPU": cpus, "GPU": gpus},
    ),
    slots=st.integers(1, 12),
    wanted=st.integers(1, 12),
    cpus=st.integers(1, 4),
    gpus=st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2]),
)
SWEEPS = st.dictionaries(st.sampled_from("abcde"), CLAIMS, min_size=1)


def claim(slots: int, *, wanted: int | None = None, **needs: float) -> Claim:
    return Claim(
        sweep="any", slots=slots, wanted=wanted or slots, running=0, needs={"CPU": 1, **needs}
    )


def dominant(claim: Claim, slots: int, size: dict[str, float]) -> float:
    return max(slots * need / size[name] for name, need in claim.needs.items() if need)


@given(claims=SWEEPS, cpus=st.integers(1, 32), gpus=st.integers(0, 8))
def test_shares_fit_are_used_and_are_fair(claims: dict[str, Claim], cpus: int, gpus: int):
    shares = fair_shares(claims, {"CPU": cpus, "GPU": gpus})
    # The cluster is at least as large as what any sweep was given.
    size = {
        name: max(known, *(c.slots * c.needs[name] for c in claims.values()))
        for name, known in (("CPU", cpus), ("GPU", gpus))
    }
    used = {name: sum(n * claims[k].needs[name] for k, n in shares.items()) for name in size}
    assert shares.keys() == claims.keys()
    assert all(1 <= n <= claims[key].wanted for key, n in shares.items())
    if any(n > 1 for n in shares.values()):
        grown = [
            name for name in size if any(claims[k].needs[name] for k in shares if shares[k] > 1)
        ]
        assert all(used[name] <= size[name] + 2 * ROUNDING for name in grown)
    for key, n in shares.items():
        more = claims[key]
        satisfied = n == more.wanted
        full = any(used[name] + more.needs[name] > size[name] for name in size)
        assert satisfied or full, "something is left that it wants"
        for other, m in shares.items():
            # What another has above its first slot was not taken from one that had less.
            needs_less = all(more.needs[name] <= claims[other].needs[name] for name in size)
            if not satisfied and m > 1 and needs_less:
                with_one_more = dominant(more, n + 1, size)
                assert dominant(claims[other], m, size) <= with_one_more + ROUNDING


def test_equal_sweeps_have_equal_shares():
    assert fair_shares({"a": claim(8), "b": claim(8)}, {"CPU": 8, "GPU": 0}) == {"a": 4, "b": 4}
    three = fair_shares({k: claim(8, GPU=1) for k in "abc"}, {"CPU": 64, "GPU": 8})
    assert sorted(three.values()) == [2, 3, 3]


def test_what_one_leaves_the_other_has():
    shares = fair_shares({"a": claim(8, wanted=2), "b": claim(8)}, {"CPU": 8, "GPU": 0})
    assert shares == {"a": 2, "b": 6}


def test_a_sweep_alone_has_what_it_was_given_also_before_its_machines_are_there():
    assert fair_shares({"a": claim(64, CPU=8, GPU=1)}, {"CPU": 4, "GPU": 0}) == {"a": 64}


def test_who_needs_gpus_and_who_needs_none_do_not_take_from_each_other():
    shares = fair_shares({"a": claim(4, GPU=1), "b": claim(12)}, {"CPU": 16, "GPU": 4})
    assert shares == {"a": 4, "b": 12}


def test_more_sweeps_than_slots_wait_with_one_each():
    shares = fair_shares({key: claim(2) for key in "abc"}, {"CPU": 2, "GPU": 0})
    assert shares == {"a": 1, "b": 1, "c": 1}


def test_who_wants_one_kind_of_gpu_and_who_takes_any_are_fair_to_each_other():
    size = {"CPU": 16, "GPU": 8, "GPU:L4": 4, "GPU:H100": 4}
    shares = fair_shares({"any": claim(8, GPU=1), "one": claim(4, GPU=1, **{"GPU:H100": 1})}, size)
    # A GPU is an eighth to the one, of which it may have all, and a fourth to the other.
    assert shares == {"any": 6, "one": 2}


def test_room_is_made_only_where_that_may_help():
    alive = [Machine(cpus=4, gpus=1, gpu_kind="L4"), Machine(cpus=8)]
    own = replace(claim(4), running=4)
    on_l4 = claim(2, GPU=1, **{"GPU:L4": 1})
    assert may_make_room(own, claim(2, CPU=8), alive)
    assert may_make_room(own, on_l4, alive)
    assert not may_make_room(own, claim(2, CPU=9), alive), "it fits no machine"
    assert not may_make_room(own, claim(2, GPU=1, CPU=8), alive), "no machine has both"
    assert not may_make_room(own, claim(2, GPU=1, **{"GPU:H100": 1}), alive), "not there yet"
    assert not may_make_room(own, replace(claim(2), running=1), alive), "it has one"
    assert not may_make_room(claim(4), claim(2), alive), "we have none ourselves"
    big = replace(claim(2, CPU=8), running=1)
    assert not may_make_room(big, on_l4, alive), "we are on another machine"
