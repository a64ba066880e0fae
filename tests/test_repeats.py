"""Finalists that the folds cannot tell apart are trained again: who, who wins, at what cost."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest
from last_stages import (
    STUDY,
    TIED,
    begin,
    fold_of,
    outcome_of,
    repeat_of,
    search,
    seeds_decide,
    stage_of_all,
    through,
)

from orchestrator.plan.request import FinalRequest
from orchestrator.record.finals import FinalRecord
from orchestrator.report.final import read_final_results
from orchestrator.report.tested import stage_lines
from orchestrator.run.final_files import FINAL_TABLE, write_final
from orchestrator.run.final_stage import plan_stage, sentences
from orchestrator.tracking.final_content import final_contents
from orchestrator.training.final_trial import FoldTrial


def test_near_ties_after_the_folds_are_trained_again_with_other_seeds_on_the_same_folds(tmp_path):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=1)
    said = stage_of_all(searched)
    runs = through(searched, seeds_decide)
    folds = [run for run in runs if run.kind is FoldTrial]
    first = [run for run in folds if not repeat_of(run)]
    second = [run for run in folds if repeat_of(run)]
    assert {run.config.number for run in second} == {1, 2}, "#0 was told from the best"
    assert len(second) == 2 * 5
    by_fold = {}
    for run in folds:
        by_fold.setdefault((repeat_of(run), fold_of(run)), set()).add(run.config.seed)
    assert all(len(seeds) == 1 for seeds in by_fold.values()), "pairs have one seed"
    assert len(set.union(*by_fold.values())) == 10, "other seeds"
    assert {vars(r.config)["fold_seed"] for r in first} == {
        vars(r.config)["fold_seed"] for r in second
    }

    finals = FinalRecord(*searched)
    mean = {n: finals.finalist(STUDY, n).accuracy for n in (1, 2)}
    for n in (1, 2):
        every = [seeds_decide(n, fold, repeat) for repeat in (0, 1) for fold in range(5)]
        assert mean[n] == pytest.approx(fmean(every))
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == 2
    lead = 100 * (mean[2] - mean[1])
    assert "over 5 folds with 2 seeds each; #1 has" in winner.why
    assert "#0 was stopped after 4 folds" in winner.why
    assert f"{lead:.1f} ± " in winner.why
    told = (
        "a second seed was trained on the same folds, since until then these did not tell #1 from"
    )
    assert f"{told} #2 (0.9 ± " in winner.why
    outcome = outcome_of(searched)
    assert (outcome.num_left, outcome.num_seeds_on_folds) == (0, 2)
    assert said.num_left >= len(runs), "what was forecast is the most"


def test_the_forecast_says_what_repeats_may_cost_before_and_while_it_is_spent(tmp_path):
    searched = search(tmp_path, TIED)
    plan, record, _ = searched
    (before,) = plan_stage(
        plan, record, FinalRecord(*searched), {"repeats": 2, "num_folds": 2}, Path("s"),
        unfinished=False, again=False,
    )  # fmt: skip
    assert (before.num_left, before.num_possible) == (3 * 2 * 3 + 5, 3 * 2 * 2)
    text = " ".join(" ".join(sentences([before])).split())
    assert "repeats up to 12 of these runs: finalists that the folds cannot tell apart" in text
    begin(searched, repeats=2, num_folds=2)
    assert stage_of_all(searched).num_left == 3 * 2 * 3 + 2
    left = []
    for _ in range(60):
        left.append(FinalRecord(*searched).num_left(STUDY))
        if not through(searched, seeds_decide, most=1):
            break
    assert left == sorted(left, reverse=True) and left[-1] == 0
    assert stage_of_all(searched).is_over


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 3])
def test_a_stage_that_is_killed_before_every_run_ends_as_one_that_is_not(tmp_path, slots):
    found = []
    for name, killed in (("whole", False), ("killed", True)):
        place = tmp_path / name
        place.mkdir()
        searched = search(place, TIED)
        begin(searched, repeats=2, num_folds=3)
        runs = through(searched, seeds_decide, killed=killed, slots=slots)
        finals = FinalRecord(*searched)
        found.append(
            (
                {n: finals.finalist(STUDY, n).passes for n in range(3)},
                finals.reasons(STUDY),
                outcome_of(searched),
                sorted((run.kind.__name__, str(run.config)) for run in runs),
            )
        )
    assert found[0] == found[1]
    assert len(found[0][1]) == 2


def test_a_kill_while_a_repeat_is_written_down_loses_nothing(tmp_path):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=1)
    through(searched, seeds_decide, most=3 * 5 - 1)  # one of the finalists stops before
    whole = FinalRecord(*searched).reasons(STUDY)
    assert len(whole) == 1

    def lose(*statements: str) -> None:
        with closing(sqlite3.connect(tmp_path / "studies.db")) as database, database:
            for statement in statements:
                assert database.execute(statement).rowcount > 0

    repeat = "(SELECT study_id FROM studies WHERE study_name LIKE '%/repeat-1')"
    trials = f"(SELECT max(trial_id) FROM trials WHERE study_id = {repeat})"
    # The last finalist was not written.
    lose(
        f"DELETE FROM trial_user_attributes WHERE trial_id = {trials}",
        f"DELETE FROM trials WHERE trial_id = {trials}",
    )
    finals = FinalRecord(*searched)
    assert finals.winner(STUDY) is None
    assert finals.num_left(STUDY) == 2 * 5 + 2
    finals.go_on(STUDY)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as database:
        there = database.execute(f"SELECT count(*) FROM trials WHERE study_id = {repeat}")
        assert there.fetchone() == (2,)
    # Nor who is trained again: then it was not begun.
    lose(f"DELETE FROM study_user_attributes WHERE key = 'chosen' AND study_id = {repeat}")
    finals = FinalRecord(*searched)
    assert finals.winner(STUDY) is None, "a reader decides nothing that a repeat would"
    assert finals.num_left(STUDY) == 2 * 5 + 2
    assert outcome_of(searched).winner is None
    through(searched, seeds_decide)
    finals = FinalRecord(*searched)
    assert finals.reasons(STUDY) == whole
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == 2


def test_repeats_end_at_their_bound_and_a_tie_goes_by_the_search(tmp_path):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=2, num_finalists=2)
    through(searched, lambda number, fold, repeat: 0.6)
    finals = FinalRecord(*searched)
    assert finals.num_repeats(STUDY) == 2
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == 1
    assert "#2 has the same, and the tie went by the search" in winner.why


def test_a_clear_lead_is_not_repeated(tmp_path):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=2, num_finalists=2)
    through(searched, lambda number, fold, repeat: 0.8 + 0.001 * fold if number == 1 else 0.6)
    finals = FinalRecord(*searched)
    assert finals.num_repeats(STUDY) == 0
    assert outcome_of(searched).num_left == 0


@pytest.mark.parametrize(("failing", "expected"), [(2, 1), (1, 2)])
def test_a_finalist_that_fails_with_another_seed_cannot_win(tmp_path, failing, expected):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=2)
    through(searched, seeds_decide, fails=(failing, 1))
    finals = FinalRecord(*searched)
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == expected
    assert f"#{failing} failed: fold 1 with seed 2: loss is nan" in winner.why
    assert finals.num_repeats(STUDY) == 1, "nobody is left to be told from the best"


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_repeat_that_nobody_completed_counts_for_nobody(tmp_path, repeat):
    """Not for #0 either, which was told from the best before it."""
    ends = []
    for repeats in (repeat - 1, 3):
        place = tmp_path / str(repeats)
        place.mkdir()
        searched = search(place, TIED)
        begin(searched, repeats=repeats, num_folds=3)  # too few for Wilcoxon's test to stop #0
        through(searched, near_for_good, fails=(None, repeat))
        finals = FinalRecord(*searched)
        assert finals.finalist(STUDY, 0).state == "complete"
        ends.append((finals, outcome_of(searched)))
    (_, without), (finals, outcome) = ends
    assert outcome.winner == without.winner == 1
    assert outcome.cross_validation == without.cross_validation
    assert outcome.test_accuracies == without.test_accuracies
    assert outcome.num_seeds_on_folds == without.num_seeds_on_folds == repeat
    assert finals.num_repeats(STUDY) == repeat, "no further one begins"
    seed = repeat + 1
    failed = f"fold 1 with seed {seed}: loss is nan"
    void = f"it counts for nobody, since all failed with it: #1 {failed}, #2 {failed}"
    assert void in outcome.why
    assert stage_of_all(searched).is_over
    plan, record, _ = searched
    write_final(plan, lambda: None, finals, [replace(outcome, bundle_seed=None)], tmp_path)  # type: ignore[arg-type]
    rows = pq.read_table(tmp_path / FINAL_TABLE).to_pylist()
    told = [
        (r["trial"], r["fold"], r["state"], r["failure"]) for r in rows if r["repeat"] == repeat
    ]
    assert told == [(1, None, "failed", failed), (2, None, "failed", failed)]
    assert all(r["state"] == "complete" for r in rows if r["repeat"] != repeat)
    (again,) = plan_stage(plan, record, finals, {}, Path("s"), unfinished=False, again=True)
    assert (again.begins, again.round) == (True, 2), "the failures may be seen to, and it is redone"


@pytest.mark.parametrize("number", [-1, 11])
def test_more_repeats_than_there_may_be_are_refused(number: int):
    with pytest.raises(ValueError, match=f"--repeats must be from 0 to 10, found {number}"):
        FinalRequest(repeats=number).check()


def near_for_good(number: int, fold: int, repeat: int) -> float:
    """#1 and #2 are not told apart, whatever the seeds; #0 is far behind, and collapses nowhere."""
    return {0: 0.6, 1: 0.7, 2: 0.69 + 0.03 * (fold - 1)}.get(number, 0.5)


@pytest.mark.parametrize(("of_0", "expected"), [(0.6, 2), (0.688, 2), (0.692, 0)])
def test_who_was_told_only_from_a_finalist_that_failed_is_compared_again(tmp_path, of_0, expected):
    """#0 is clearly behind #1, not behind #2; #1 fails with the second seeds, where #2 is best."""
    searched = search(tmp_path, TIED)
    begin(searched, repeats=2, num_folds=3)

    def reached(number: int, fold: int, repeat: int) -> float:
        # #1 and #0 always differ alike, #2 wavers.
        first = {0: of_0, 1: 0.75, 2: 0.69 + 0.09 * (fold - 1)}[number]
        return first - 0.2 * (repeat > 0)

    through(searched, reached, fails=(1, 1))
    finals = FinalRecord(*searched)
    assert finals.reasons(STUDY) == ["#1 from #2 (6.0 ± 5.2 points behind)"]
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == expected
    assert "#1 failed: fold 1 with seed 2: loss is nan" in winner.why
    if expected == 0:
        assert winner.why.startswith("trial #0 has 69.2 % over 3 folds; ")
        assert "#2 has 59.0 % with 2 seeds, over the seeds that both have 0.2 ± 5.2" in winner.why
    else:
        assert f"#0 has {100 * of_0:.1f} % with 1 seed, " in winner.why
        assert "which the folds cannot tell apart" in winner.why


def test_who_was_told_from_another_best_is_said_to_be_out_and_not_behind(tmp_path):
    """#0 was told from #1 with the first seeds; #2, which wins with the second ones, was behind."""
    searched = search(tmp_path, TIED)
    begin(searched, repeats=1, num_folds=3)

    def reached(number: int, fold: int, repeat: int) -> float:
        first = {0: 0.70, 1: 0.75, 2: 0.69 + 0.09 * (fold - 1)}[number]
        return first + 0.2 * (repeat > 0 and number == 2)

    through(searched, reached)
    winner = FinalRecord(*searched).winner(STUDY)
    assert winner is not None and winner.number == 2
    assert (
        "#0 has 70.0 % with 1 seed: it was told from the best then, and was not trained again"
        in winner.why
    )
    assert "-" not in winner.why


def test_who_was_told_from_the_best_before_does_not_win_by_being_left_out(tmp_path):
    """Means over different seeds are no pairs."""
    searched = search(tmp_path, TIED)
    begin(searched, repeats=1, num_folds=3)  # too few for Wilcoxon's test to stop #0

    def reached(number: int, fold: int, repeat: int) -> float:
        # With the second seeds both that lead fall far below #0, which is not trained with them.
        first = {0: 0.6, 1: 0.7, 2: 0.69 + 0.03 * (fold - 1)}[number]
        return first - 0.5 * (repeat > 0)

    through(searched, reached)
    finals = FinalRecord(*searched)
    assert finals.finalist(STUDY, 0).state == "complete"
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == 1
    assert "#0 has 60.0 % with 1 seed, 10.0 ± 0.9 points less" in winner.why


def test_a_collapse_with_one_seed_of_a_repeat_is_told(tmp_path):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=1, num_finalists=2)
    through(
        searched,
        lambda number, fold, repeat: (
            0.1 if (number, fold, repeat) == (2, 3, 1) else seeds_decide(number, fold, 0)
        ),
    )
    winner = FinalRecord(*searched).winner(STUDY)
    assert winner is not None and winner.number == 1
    told = "#2 collapsed for 1 of 10 runs on folds (3 with seed 2 of 2: 10.0, median"
    assert told in winner.why


def test_repeats_are_in_status_table_tracking_and_outcome(tmp_path):
    searched = search(tmp_path, TIED)
    plan, record, _ = searched
    begin(searched, repeats=1)
    through(searched, seeds_decide, most=3 * 5)
    (finals, outcome) = FinalRecord(*searched), outcome_of(searched)
    told = "the leading finalists are trained with a second seed on the same folds, since these do"
    assert outcome.why.startswith(told) and outcome.winner is None
    (tmp_path / "final.json").write_text(json.dumps([asdict(outcome)]))
    lines = stage_lines(read_final_results(tmp_path), plan, record.trials)
    assert any(told in line for line in lines)
    states = {f.number: f.state for f in finals.finalists(STUDY)}
    assert states[1] == states[2] == "running"

    through(searched, seeds_decide)
    outcome = outcome_of(searched)
    finals = FinalRecord(*searched)
    without_bundle = replace(outcome, bundle_seed=None)
    write_final(plan, lambda: None, finals, [without_bundle], tmp_path)  # type: ignore[arg-type]
    (result,) = read_final_results(tmp_path)
    assert result.cross_validation_interval == outcome.cross_validation_interval is not None
    assert result.cross_validation_interval is not None
    low, high = result.cross_validation_interval
    assert result.cross_validation is not None and low < result.cross_validation < high
    assert result.num_seeds_on_folds == 2
    rows = pq.read_table(tmp_path / FINAL_TABLE).to_pylist()
    again = [(r["trial"], r["fold"]) for r in rows if r["repeat"] == 1]
    assert sorted(again) == [(n, fold) for n in (1, 2) for fold in range(5)]
    of_winner = [r["fold_accuracy"] for r in rows if r["trial"] == 2 and r["stage"] == "finalist"]
    assert fmean(of_winner) == pytest.approx(result.cross_validation)
    contents = {c.tags["trial"]: c for c in final_contents(plan, plan.studies[0], finals)
                if c.tags["stage"] == "finalist"}  # fmt: skip
    assert [point.step for point in contents["2"].points] == list(range(10))


def test_what_a_finalist_reached_before_it_failed_with_other_seeds_is_kept_apart(tmp_path):
    searched = search(tmp_path, TIED)
    plan, *_ = searched
    begin(searched, repeats=1)
    # Fold 0 of both with the second seeds; then #1 fails.
    first = 5 + 5 + 4
    through(searched, lambda n, f, r: seeds_decide(n, f, r) - 0.3 * (r > 0), most=first + 2)
    through(searched, seeds_decide, fails=(1, 1))
    finals = FinalRecord(*searched)
    assert (finals.finalist(STUDY, 1).state, finals.finalist(STUDY, 2).state) == (
        "failed", "complete",
    )  # fmt: skip
    outcome = replace(outcome_of(searched), bundle_seed=None)
    write_final(plan, lambda: None, finals, [outcome], tmp_path)  # type: ignore[arg-type]
    rows = pq.read_table(tmp_path / FINAL_TABLE).to_pylist()
    told = {(r["repeat"], r["state"], r["failure"]) for r in rows
            if (r["trial"], r["stage"]) == (1, "finalist")}  # fmt: skip
    assert told == {
        (0, "complete", None), (1, "failed", "fold 2 with seed 2: loss is nan"),
    }  # fmt: skip
    (content,) = [
        c for c in final_contents(plan, plan.studies[0], finals)
        if (c.tags["trial"], c.tags["stage"]) == ("1", "finalist")
    ]  # fmt: skip
    assert [point.step for point in content.points] == list(range(6))
    mean = fmean(seeds_decide(1, fold, 0) for fold in range(5))
    assert list(content.totals.values()) == [pytest.approx(mean)]


def test_a_repeat_of_no_finalist_is_refused_in_one_line(tmp_path):
    searched = search(tmp_path, TIED)
    begin(searched, repeats=1)
    through(searched, seeds_decide, most=3 * 5)
    for value in ("[98, 99]", '["a", "b"]', "7", "[1]"):
        with closing(sqlite3.connect(tmp_path / "studies.db")) as database, database:
            changed = database.execute(
                "UPDATE study_user_attributes SET value_json = ? WHERE key = 'chosen' AND study_id "
                "= (SELECT study_id FROM studies WHERE study_name LIKE '%/repeat-1')",
                (value,),
            )
            assert changed.rowcount == 1
        with pytest.raises(ValueError) as refused:
            FinalRecord(*searched)
        assert "\n" not in str(refused.value)
