"""Fair shares of a cluster, as a law: nobody idles it, nobody takes what another should have."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sharing import ROUNDING, Claim, fair_shares

CLAIMS = st.builds(
    lambda slots, wanted, cpus, gpus: Claim(
        sweep="a", slots=slots, wanted=min(slots, wanted), cpus=cpus, gpus=gpus
    ),
    slots=st.integers(1, 12),
    wanted=st.integers(1, 12),
    cpus=st.integers(1, 4),
    gpus=st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2]),
)
SWEEPS = st.dictionaries(st.sampled_from("abcde"), CLAIMS, min_size=1)


def claim(slots: int, *, wanted: int | None = None, cpus: float = 1, gpus: float = 0) -> Claim:
    return Claim(sweep="any", slots=slots, wanted=wanted or slots, cpus=cpus, gpus=gpus)


def believed(claims: dict[str, Claim], cpus: float, gpus: float) -> tuple[float, float]:
    """The size of the cluster: at least what any sweep was given."""
    return (
        max(cpus, *(c.slots * c.cpus for c in claims.values())),
        max(gpus, *(c.slots * c.gpus for c in claims.values())),
    )


def dominant(claim: Claim, slots: int, size: tuple[float, float]) -> float:
    cpus, gpus = size
    return max(slots * claim.cpus / cpus, slots * claim.gpus / gpus if gpus else 0)


@given(claims=SWEEPS, cpus=st.integers(1, 32), gpus=st.integers(0, 8))
def test_shares_fit_are_used_and_are_fair(claims: dict[str, Claim], cpus: int, gpus: int):
    shares = fair_shares(claims, cpus=cpus, gpus=gpus)
    size = believed(claims, cpus, gpus)
    used = [
        sum(n * claims[k].cpus for k, n in shares.items()),
        sum(n * claims[k].gpus for k, n in shares.items()),
    ]
    assert shares.keys() == claims.keys()
    assert all(1 <= n <= claims[key].wanted for key, n in shares.items())
    if any(n > 1 for n in shares.values()):
        assert all(u <= s + 2 * ROUNDING for u, s in zip(used, size, strict=True))
    for key, n in shares.items():
        more = claims[key]
        satisfied = n == more.wanted
        full = used[0] + more.cpus > size[0] or used[1] + more.gpus > size[1]
        assert satisfied or full, "something is left that it wants"
        for other, m in shares.items():
            # What another has above its first slot was not taken from one that had less.
            needs_less = more.cpus <= claims[other].cpus and more.gpus <= claims[other].gpus
            if not satisfied and m > 1 and needs_less:
                with_one_more = dominant(more, n + 1, size)
                assert dominant(claims[other], m, size) <= with_one_more + ROUNDING


def test_equal_sweeps_have_equal_shares():
    assert fair_shares({"a": claim(8), "b": claim(8)}, cpus=8, gpus=0) == {"a": 4, "b": 4}
    three = fair_shares({k: claim(8, gpus=1) for k in "abc"}, cpus=64, gpus=8)
    assert sorted(three.values()) == [2, 3, 3]


def test_what_one_leaves_the_other_has():
    shares = fair_shares({"a": claim(8, wanted=2), "b": claim(8)}, cpus=8, gpus=0)
    assert shares == {"a": 2, "b": 6}


def test_a_sweep_alone_has_what_it_was_given_also_before_its_machines_are_there():
    assert fair_shares({"a": claim(64, cpus=8, gpus=1)}, cpus=4, gpus=0) == {"a": 64}


def test_who_needs_gpus_and_who_needs_none_do_not_take_from_each_other():
    shares = fair_shares({"a": claim(4, gpus=1), "b": claim(12)}, cpus=16, gpus=4)
    assert shares == {"a": 4, "b": 12}


def test_more_sweeps_than_slots_wait_with_one_each():
    shares = fair_shares({key: claim(2) for key in "abc"}, cpus=2, gpus=0)
    assert shares == {"a": 1, "b": 1, "c": 1}
