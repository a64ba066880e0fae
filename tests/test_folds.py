"""Finalists on their folds: who is stopped before the last one, and how sure their mean is."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kills import Killed
from last_stages import STUDY, TIED, begin, outcome_of, search, seeds_decide, through

from orchestrator.record.finals import FinalRecord
from orchestrator.support.uncertainty import interval, interval_over_folds


def test_to_go_on_stops_nobody_before_its_next_fold(tmp_path, monkeypatch):
    searched = search(tmp_path, TIED)
    begin(searched)
    with monkeypatch.context() as patched:
        patched.setattr(FinalRecord, "_judge", lambda *_: None)
        through(searched, seeds_decide, most=5 + 2 * 4)  # 4 folds of #0, which is far behind
    FinalRecord(*searched).go_on(STUDY)
    finals = FinalRecord(*searched)
    states = {f.number: f.state for f in finals.finalists(STUDY)}
    assert states == {0: "running", 1: "complete", 2: "running"}
    assert len(finals.finalist(STUDY, 0).fold_accuracies) == 4


def test_a_near_tie_is_not_stopped_before_its_repeat(tmp_path):
    """Half a point behind on each of four folds: Wilcoxon's p is 1/16, but no lead is clear."""
    states = {}
    for repeats in (0, 1):
        place = tmp_path / str(repeats)
        place.mkdir()
        searched = search(place, TIED)
        begin(searched, repeats=repeats)
        through(
            searched,
            lambda number, fold, repeat: {0: 0.5, 1: 0.70, 2: 0.695}[number] + 0.01 * fold,
            most=5 + 2 * 5 if repeats else 200,
        )
        finals = FinalRecord(*searched)
        states[repeats] = {f.number: f.state for f in finals.finalists(STUDY)}
        assert len(finals.finalist(STUDY, 0).fold_accuracies) == 4, "stopped with and without"
    assert states[0] == {0: "pruned", 1: "complete", 2: "pruned"}
    assert states[1] == {0: "pruned", 1: "running", 2: "running"}


@pytest.mark.parametrize("repeat", [0, 1])
def test_a_kill_after_the_last_fold_of_a_finalist_leaves_it_complete(tmp_path, monkeypatch, repeat):
    """Written was what it reached, but not yet that it is complete."""
    ends, judge = [], FinalRecord._judge

    def die(self: FinalRecord, study: str, trial_id: int, which: int) -> None:
        folds = self._storage.get_trial(trial_id).intermediate_values
        if (len(folds), which) == (3, repeat):
            raise Killed
        judge(self, study, trial_id, which)

    for name in ("whole", "killed"):
        place = tmp_path / name
        place.mkdir()
        searched = search(place, TIED)
        begin(searched, repeats=1, num_folds=3)
        if name == "killed":
            with monkeypatch.context() as patched, pytest.raises(Killed):
                patched.setattr(FinalRecord, "_judge", die)
                through(searched, seeds_decide)
            left = FinalRecord(*searched)
            assert left.winner(STUDY) is None and left.num_left(STUDY) > 0
        through(searched, seeds_decide)
        finals = FinalRecord(*searched)
        passes = {n: finals.finalist(STUDY, n).passes for n in range(3)}
        ends.append((passes, finals.reasons(STUDY), outcome_of(searched)))
    assert ends[0] == ends[1]
    assert ends[0][2].num_left == 0 and len(ends[0][1]) == 1


@given(
    by_fold=st.lists(st.floats(0, 1), min_size=1, max_size=10),
    images=st.floats(2, 5000),
)
def test_the_interval_over_folds_holds_the_mean_and_is_no_surer_than_its_images(by_fold, images):
    low, high = interval_over_folds(by_fold, images)
    mean = fmean(by_fold)
    least, most = interval(mean, images)
    assert 0 <= low <= least <= mean + 1e-9 and mean - 1e-9 <= most <= high <= 1
