"""Near-ties of a search: who is compared, who is trained again, who wins, and how sure that is."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import EPOCHS, curve_to, make_plan, make_record, run_trial, trial_facts

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.request import FinalRequest
from orchestrator.record.final_outcome import StudyOutcome, outcomes
from orchestrator.record.finalists import choose_finalists, finalists_of, near_ties, num_left_out
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import Record, TrialRecord
from orchestrator.report.final import caveats, is_current, read_final_results
from orchestrator.report.tested import stage_lines
from orchestrator.run.final_files import FINAL_TABLE, write_final
from orchestrator.run.final_queue import FinalQueue
from orchestrator.run.final_stage import plan_stage, sentences, study_sentences
from orchestrator.run.queue import Failed, Finished, Report, Run
from orchestrator.support.uncertainty import interval, interval_over_folds, standard_error
from orchestrator.tracking.final_content import final_contents
from orchestrator.training.facts import FinalFacts
from orchestrator.training.final_trial import FoldTrial

STUDY = "caltech101.vpt_deep"
Searched = tuple[SweepPlan, Record, str]
Reached = Callable[[int, int, int], float]
"""Accuracy of a trial on a fold (-1: on test) in a repeat."""


def search(tmp_path: Path, accuracies) -> Searched:
    plan = make_plan(num_trials=len(accuracies))
    record = make_record(plan, tmp_path)
    for accuracy in accuracies:
        run_trial(record, STUDY, accuracy=accuracy)
    return plan, record, f"sqlite:///{tmp_path / 'studies.db'}"


def begin(searched: Searched, **protocol) -> FinalRecord:
    finals = FinalRecord(*searched)
    finals.begin(STUDY, FinalProtocol(seeds=(1, 2), **protocol), "f")
    return finals


def outcome_of(searched: Searched) -> StudyOutcome:
    plan, record, _ = searched
    (outcome,) = outcomes(plan, record, FinalRecord(*searched))
    return outcome


def fold_of(run: Run) -> int:
    return vars(run.config)["fold"]


def repeat_of(run: Run) -> int:
    return int(run.files.rpartition("-repeat-")[2]) if "-repeat-" in run.files else 0


def through(
    searched: Searched,
    reached: Reached,
    *,
    killed: bool = False,
    slots: int = 1,
    most: int = 200,
    fails: tuple[int | None, int] | None = None,
) -> list[Run]:
    """Do what is left, `most` runs at most, and list it. `killed`: before every run all drivers
    die, with what they had begun; `fails`: the trial that fails in the repeat (None: all do)."""
    plan, *_ = searched
    ended: list[Run] = []
    while True:
        finals = FinalRecord(*searched)
        finals.go_on(STUDY)
        queue = FinalQueue(plan, finals, Path("runs"), lambda line: None)
        running: dict[str, Run] = {}
        while True:
            while len(running) < slots and len(ended) < most:
                run_id = f"{len(ended)}.{len(running)}"
                run = queue.next_run(run_id)
                if run is None or run == "finished":
                    break
                running[run_id] = run
            if not running:
                return ended
            run_id, run = running.popitem()
            ended.append(run)
            number, seed = run.config.number, run.config.seed
            end, repeat = Finished(), repeat_of(run)
            if fails in ((number, repeat), (None, repeat)) and run.kind is FoldTrial:
                end = Failed("loss is nan", "config")
            is_fold = run.kind is FoldTrial
            accuracy = reached(number, fold_of(run) if is_fold else -1, repeat)
            rows = curve_to(accuracy, EPOCHS)
            facts = trial_facts(rows)
            if not is_fold:
                facts = FinalFacts(**vars(facts), test_accuracy=accuracy + seed / 1000, num_test=10)
            queue.reported(run_id, Report(rows=rows, facts=facts, end=end))
            queue.forget(run_id)
            if killed:
                break


def seeds_decide(number: int, fold: int, repeat: int) -> float:
    """#1 is half a point ahead with the first seeds, #2 by more with the second ones; #0 is far
    behind."""
    base = {0: 0.60, 1: 0.705, 2: 0.70}.get(number, 0.5)
    noise = 0.02 * ((3 * number + 5 * fold) % 4 - 1.5)
    return base + noise + (0.03 if number == 2 and repeat else 0.0)


TIED = (0.65, 0.70, 0.69)


# Who is compared


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[SweepPlan, TrialRecord]:
    plan = make_plan(num_trials=1)
    return plan, run_trial(make_record(plan, tmp_path_factory.mktemp("one")), STUDY)


def trials_with(trial: TrialRecord, accuracies) -> list[TrialRecord]:
    return [
        replace(trial, number=n, val_accuracy=a, config={**trial.config, "lr": 0.1 + n})
        for n, a in enumerate(accuracies)
    ]


@given(
    right=st.lists(st.integers(0, 200), min_size=1, max_size=25),
    num_finalists=st.integers(1, 5),
    more=st.integers(0, 10),
)
def test_near_ties_are_compared_up_to_a_bound_and_others_by_rank(one, right, num_finalists, more):
    plan, trial = one
    task, trials = plan.tasks[0], trials_with(trial, [n / 200 for n in right])
    protocol = FinalProtocol(num_finalists=num_finalists, most_finalists=num_finalists + more)
    found, near = finalists_of(trials, task, protocol), near_ties(trials, task)
    best = max(right) / 200
    within = [t for t in trials if best - (t.val_accuracy or 0) <= standard_error(best, 200) + 1e-9]
    assert {t.number for t in near} == {t.number for t in within}
    wanted = min(max(num_finalists, min(len(near), num_finalists + more)), len(trials))
    assert found == choose_finalists(trials, wanted)
    assert num_left_out(trials, task, found) == len(
        {t.number for t in near} - {t.number for t in found}
    )
    fixed = finalists_of(trials, task, FinalProtocol(num_finalists=num_finalists))
    assert fixed == choose_finalists(trials, num_finalists)


def test_near_ties_that_are_left_out_are_told_before_and_after(tmp_path):
    searched = search(tmp_path, (0.5, 0.70, 0.69, 0.69, 0.68, 0.68))
    plan, record, _ = searched

    def stage(**asked):
        finals = FinalRecord(*searched)
        (found,) = plan_stage(plan, record, finals, asked, Path("s"), unfinished=False, again=False)
        return found

    three = stage()
    assert (len(three.finalists), three.num_left_out) == (3, 2)
    text = " ".join(" ".join(sentences([three])).split())
    assert "left out 2 more trials of 1 study within one standard error of the best" in text
    assert "--most-finalists 5 compares them, too" in text
    assert ", 2 near-ties left out" in study_sentences([three])[0]
    assert (len(stage(most_finalists=4).finalists), stage(most_finalists=4).num_left_out) == (4, 1)
    all_of_them = stage(most_finalists=9)
    assert (len(all_of_them.finalists), all_of_them.num_left_out) == (5, 0)
    assert "left out" not in " ".join(sentences([all_of_them]))

    begin(searched)
    begun = " ".join(" ".join(sentences([stage()])).split())
    assert "left out 2 more trials of 1 study within one standard error of the best" in begun
    assert "--most-finalists" not in begun, "it would be refused"
    again = " ".join(" ".join(sentences([replace(three, round=2)])).split())
    assert "left out 2 more" in again and "--most-finalists" not in again
    outcome = outcome_of(searched)
    assert (outcome.num_left_out, outcome.num_finalists, outcome.most_finalists) == (2, 3, 0)
    (tmp_path / "final.json").write_text(json.dumps([asdict(outcome)]))
    (result,) = read_final_results(tmp_path)
    assert any("2 more trials of the search within one standard" in c for c in caveats(result))
    assert not any("--most-finalists" in c for c in caveats(result)), "test numbers are known"
    lines = stage_lines([result], plan, record.trials)
    assert lines == ["last stage: 0 of 1 study tested"]
    run_trial(record, STUDY, accuracy=0.695)
    trials = record.trials(STUDY)
    assert not is_current(result, trials, plan.tasks[0])


def test_a_new_near_tie_makes_finalists_that_were_near_ties_out_of_date(tmp_path):
    searched = search(tmp_path, (0.70, 0.69, 0.69))
    plan, record, _ = searched
    begin(searched, num_finalists=1, most_finalists=4)
    outcome = outcome_of(searched)
    (tmp_path / "final.json").write_text(json.dumps([asdict(outcome)]))
    (result,) = read_final_results(tmp_path)
    assert len(result.finalists) == 3
    assert is_current(result, record.trials(STUDY), plan.tasks[0])
    run_trial(record, STUDY, accuracy=0.4)
    assert is_current(result, record.trials(STUDY), plan.tasks[0])
    run_trial(record, STUDY, accuracy=0.68)
    assert not is_current(result, record.trials(STUDY), plan.tasks[0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"finalists": 3, "most_finalists": 2},
            "--most-finalists must be at least --finalists, 3, found 2",
        ),
        ({"most_finalists": -1}, "--most-finalists must be at least --finalists, 1, found -1"),
        ({"repeats": 11}, "--repeats must be from 0 to 10, found 11"),
        ({"repeats": -1}, "--repeats must be from 0 to 10, found -1"),
    ],
)
def test_what_no_stage_can_do_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        FinalRequest(**asked).check()


def test_most_finalists_are_held_against_the_finalists_that_the_stage_was_begun_with(tmp_path):
    asked = FinalRequest(most_finalists=2)
    asked.check()
    searched = search(tmp_path, (0.70, 0.69, 0.69))
    plan, record, _ = searched

    def stage():
        finals = FinalRecord(*searched)
        return plan_stage(
            plan, record, finals, asked.protocol, Path("s"), unfinished=False, again=False
        )

    with pytest.raises(ValueError, match="must be at least --finalists, 3, found 2"):
        stage()
    begin(searched, num_finalists=1, most_finalists=2)
    (found,) = stage()
    assert (len(found.finalists), found.begins) == (2, False)


def test_a_stage_without_these_options_is_stored_as_before(tmp_path):
    searched = search(tmp_path, (0.5, 0.70, 0.58))
    begin(searched)
    through(searched, lambda *_: 0.5)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as database:
        told = dict(database.execute("SELECT key, value_json FROM study_user_attributes"))
        names = [name for (name,) in database.execute("SELECT study_name FROM studies")]
    assert json.loads(told["protocol"]).keys() == {
        "num_finalists", "num_folds", "seeds", "data_fingerprint"
    }  # fmt: skip
    assert json.loads(told["search"]).keys() == {"finished", "planned"}
    assert not any("repeat" in name for name in names)
    assert outcome_of(searched).num_left == 0


# Who is trained again, and who wins


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


def stage_of_all(searched: Searched):
    plan, record, _ = searched
    (stage,) = plan_stage(
        plan, record, FinalRecord(*searched), {}, Path("s"), unfinished=False, again=False
    )
    return stage


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


class Killed(Exception):
    pass


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


# How sure it is, and where that is said


@given(
    by_fold=st.lists(st.floats(0, 1), min_size=1, max_size=10),
    images=st.floats(2, 5000),
)
def test_the_interval_over_folds_holds_the_mean_and_is_no_surer_than_its_images(by_fold, images):
    low, high = interval_over_folds(by_fold, images)
    mean = fmean(by_fold)
    least, most = interval(mean, images)
    assert 0 <= low <= least <= mean + 1e-9 and mean - 1e-9 <= most <= high <= 1


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
