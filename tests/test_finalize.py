"""The last stage: paired folds, clear losers stopped, one test per seed, nothing lost in a kill."""

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch
from command_line import COMMAND, environment, run
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from plans import EPOCHS, curve_to, facts_of, make_plan, make_record, run_trial, trial_facts
from suites import write_task
from trials import context_of, trial_config

from orchestrator.bundle.bundle import load_bundle, read_bundle, save_bundle
from orchestrator.cli import finalize as final_command
from orchestrator.cluster.slots import Slots
from orchestrator.data.cache import ImageCache, open_final_splits
from orchestrator.data.suites import Suite
from orchestrator.data.task import DataError
from orchestrator.data.vtab import read_vtab_task
from orchestrator.plan.final_protocol import MEDIAN_SEED, FinalProtocol, refuse_unsuited
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.prepare import plan_sweep
from orchestrator.plan.request import SweepRequest
from orchestrator.record.final_outcome import StudyOutcome, outcomes
from orchestrator.record.finalists import choose_finalists
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import Record
from orchestrator.report.final import FinalResult, read_final_results, with_test_images
from orchestrator.run import final_files
from orchestrator.run.doctor import examine
from orchestrator.run.final_files import RUNS_FOLDER, write_final
from orchestrator.run.final_queue import FinalQueue
from orchestrator.run.final_stage import (
    StudyStage,
    plan_stage,
    sentences,
    study_sentences,
    with_images,
)
from orchestrator.run.queue import Failed, Finished, Report
from orchestrator.tracking.final_content import final_contents
from orchestrator.training import trial as trial_module
from orchestrator.training.confusion import confused
from orchestrator.training.context import TrialContext
from orchestrator.training.facts import FinalFacts
from orchestrator.training.final_trial import (
    FinalContext,
    FinalTrial,
    FoldConfig,
    FoldTrial,
    assign_folds,
)
from orchestrator.training.loop import frozen_prefix
from orchestrator.training.numerics import Engine
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache

STUDY = "caltech101.vpt_deep"


@given(
    labels=st.lists(st.integers(0, 5), min_size=10, max_size=120),
    num_folds=st.integers(2, 10),
    seed=st.integers(-1000, 1000),
)
@example(labels=[0] * 10, num_folds=2, seed=-(2**63))  # all that a search takes
def test_folds_are_equal_in_size_and_in_every_class(labels, num_folds, seed):
    folds = assign_folds(np.array(labels), num_folds, seed)
    sizes = np.bincount(folds, minlength=num_folds)
    assert sizes.sum() == len(labels)
    assert sizes.max() - sizes.min() <= 1
    for label in set(labels):
        of_class = np.bincount(folds[np.array(labels) == label], minlength=num_folds)
        assert of_class.max() - of_class.min() <= 1


def search(tmp_path, accuracies, *, num_trials) -> tuple[SweepPlan, Record, str]:
    """A study in which trials have reached these accuracies."""
    plan = make_plan(num_trials=num_trials)
    record = make_record(plan, tmp_path)
    for accuracy in accuracies:
        run_trial(record, STUDY, accuracy=accuracy)
    return plan, record, f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def searched(tmp_path):
    """A study with complete trials of 0.5, 0.7, 0.6, 0.7, and one pruned at a high value."""
    found = search(tmp_path, (0.5, 0.7, 0.6, 0.7), num_trials=5)
    run_trial(found[1], STUDY, accuracy=0.99, ending="pruned")
    return found


def open_finals(searched, **protocol) -> FinalRecord:
    """Begun, if it was not before."""
    plan, record, url = searched
    finals = FinalRecord(plan, record, url)
    if not finals.num_rounds(STUDY):
        finals.begin(STUDY, FinalProtocol(**protocol), "f")
    return finals


def stage_of(searched, asked=None, *, images="f", unfinished=False, again=False) -> StudyStage:
    """What `finalize` would do."""
    plan, record, url = searched
    finals, folder = FinalRecord(plan, record, url), Path("sweeps/s")
    stages = plan_stage(
        plan, record, finals, asked or {}, folder, unfinished=unfinished, again=again
    )
    (stage,) = with_images(stages, finals, {"caltech101": images}, folder, again=again)
    return stage


def outcome_of(searched) -> StudyOutcome:
    plan, record, url = searched
    (outcome,) = outcomes(plan, record, FinalRecord(plan, record, url))
    return outcome


def reach(finals: FinalRecord, number: int, fold: int, accuracy: float) -> None:
    curve = curve_to(accuracy, EPOCHS)
    finals.fold_done(STUDY, number, fold, curve=curve, facts=facts_of(curve))


def test_finalists_are_the_best_complete_trials(searched):
    numbers = [finalist.number for finalist in open_finals(searched).finalists(STUDY)]
    trials = {trial.number: trial for trial in searched[1].trials(STUDY)}
    best_two = sorted((1, 3), key=lambda number: trials[number].config["lr"])
    assert numbers == [*best_two, 2]


def test_one_configuration_is_a_finalist_once(searched):
    trials = searched[1].trials(STUDY)
    assert len(choose_finalists([*trials, *trials], 3)) == 3


def test_finalists_stay_when_the_search_goes_on(searched):
    before = [finalist.number for finalist in open_finals(searched).finalists(STUDY)]
    run_trial(searched[1], STUDY, accuracy=0.95)
    assert [finalist.number for finalist in open_finals(searched).finalists(STUDY)] == before


def test_a_clear_loser_is_stopped_and_the_winner_is_explained(searched):
    finals = open_finals(searched)
    first, second, third = (finalist.number for finalist in finals.finalists(STUDY))
    for fold in range(5):
        reach(finals, first, fold, 0.60 + 0.01 * fold)
    assert finals.winner(STUDY) is None
    for fold in range(5):
        reach(finals, second, fold, 0.62 + 0.01 * fold - 0.05 * (fold == 0))
        reach(finals, third, fold, 0.40)
    states = {f.number: f.state for f in finals.finalists(STUDY)}
    assert states == {first: "complete", second: "complete", third: "pruned"}
    assert len(finals.finalist(STUDY, third).fold_accuracies) == 4
    winner = finals.winner(STUDY)
    assert winner is not None
    assert winner.number == second
    assert f"#{third} was stopped after 4 folds" in winner.why
    assert "which the folds cannot tell apart" in winner.why


def test_finalists_whose_folds_all_differ_alike_are_not_told_apart_by_that(searched):
    finals = open_finals(searched, num_finalists=2, num_folds=2)
    first, second = (finalist.number for finalist in finals.finalists(STUDY))
    for fold in range(2):
        reach(finals, first, fold, 0.602)
        reach(finals, second, fold, 0.6)
    winner = finals.winner(STUDY)
    assert winner is not None and winner.number == first
    # Two of 1,000 images.
    assert f"#{second} has 60.0 %, 0.2 ± 0.1 points less, which the folds cannot" in winner.why


def test_a_tie_goes_by_the_search_and_is_told(searched):
    finals = open_finals(searched, num_finalists=2)
    first, second = (finalist.number for finalist in finals.finalists(STUDY))
    for fold in range(5):
        for number in (first, second):
            reach(finals, number, fold, 0.6)
    winner = finals.winner(STUDY)
    assert winner is not None
    assert winner.number == first
    assert f"#{second} has the same, and the tie went by the search" in winner.why


def test_a_failed_finalist_cannot_win_and_is_named(searched):
    finals = open_finals(searched, num_finalists=2, num_folds=2)
    first, second = (finalist.number for finalist in finals.finalists(STUDY))
    finals.finalist_failed(STUDY, first, "fold 1: loss is nan")
    for fold in range(2):
        reach(finals, second, fold, 0.3)
    winner = finals.winner(STUDY)
    assert winner is not None
    assert winner.number == second
    assert f"#{first} failed: fold 1: loss is nan" in winner.why


CHANGED = [
    ({"asked": {"num_folds": 4}}, "num_folds was 5, now 4"),
    ({"asked": {"seeds": (1, 2)}}, "seeds was"),
    ({"asked": {"num_finalists": 1}}, "num_finalists was 3, now 1"),
    ({"images": "others"}, "data_fingerprint was f, now others"),
]


@pytest.mark.parametrize(("change", "message"), CHANGED, ids=[m for _, m in CHANGED])
def test_the_protocol_cannot_be_changed_once_begun_unless_in_a_new_round(searched, change, message):
    assert open_finals(searched).num_rounds(STUDY) == 1
    with pytest.raises(ValueError, match=message):
        stage_of(searched, **change)
    assert stage_of(searched).round == 1
    stage = stage_of(searched, **change, again=True)
    assert (stage.round, stage.begins) == (2, True)


def test_what_was_not_said_again_is_as_the_stage_was_begun(searched):
    open_finals(searched, num_folds=7, seeds=(1, 2))
    assert stage_of(searched).protocol == FinalProtocol(num_folds=7, seeds=(1, 2))


def test_a_search_that_is_not_over_is_not_finalized_unless_told(tmp_path):
    searched = search(tmp_path, [0.5, 0.7], num_trials=24)
    with pytest.raises(ValueError, match=f"left are 22 of 24 trials of {STUDY}.*resume sweeps/s"):
        stage_of(searched)
    stage = stage_of(searched, unfinished=True)
    assert list(stage.finalists) == [1, 0]
    assert "finalists #1 #0 of 2 trials" in study_sentences([stage])[0]
    open_finals(searched)
    with pytest.raises(ValueError, match="left are 22 of 24"):  # it is not over, nor is the stage
        stage_of(searched)
    outcome = outcome_of(searched)
    assert (outcome.num_trials_at_choice, outcome.num_planned_trials) == (2, 24)


def test_what_will_run_is_counted_and_its_time_is_that_of_the_search(searched):
    stage = replace(stage_of(searched), run_seconds=60.0)
    told = sentences([stage], slots=Slots(num_slots=2, cpu_threads=1, gpus_per_trial=0))
    assert told[0].startswith(f"last stage of 1 of 1 study: {stage.num_left} runs at most, of ")
    text = " ".join(" ".join(told).split())
    assert "on 5 folds of train and val" in text and "seeds 42,44,82,100,800" in text
    assert f"about {stage.num_left / 2:.0f} min on 2 slots of 1 CPU thread" in text
    assert f"about {stage.num_left} min in one slot" in " ".join(
        " ".join(sentences([stage])).split()
    )
    unknown = replace(stage, run_seconds=None)
    assert "not known" in " ".join(sentences([unknown]))


def test_the_command_that_goes_on_is_the_one_that_was_allowed(tmp_path):
    searched = search(tmp_path, [0.5, 0.7], num_trials=24)
    open_finals(searched)
    with final_command.console.capture() as shown:
        final_command._show([outcome_of(searched)], tmp_path, unfinished=True)
    assert f"finalize {tmp_path} --unfinished" in shown.get().replace("\n", " ")


def test_weights_that_an_older_version_kept_are_not_removed_with_its_bundle(searched, tmp_path):
    open_finals(searched, seeds=(1, 2, 3))
    runs = tmp_path / RUNS_FOLDER / STUDY
    runs.mkdir(parents=True)
    kept = runs / "seed-2.safetensors"  # the median on test; its bundle is gone
    kept.touch()
    outcome = replace(outcome_of(searched), bundle_seed=1, test_accuracies={1: 0.5, 2: 0.6, 3: 0.7})
    found = final_files._with_kept_seed(outcome, tmp_path)
    assert (found.bundle_seed, found.seed_rule) == (2, MEDIAN_SEED)
    final_files._keep_one(outcome, tmp_path)
    assert kept.exists()


def test_failed_and_pruned_trials_count_as_ended(tmp_path):
    searched = search(tmp_path, [0.5], num_trials=3)
    run_trial(searched[1], STUDY, ending="failed")
    run_trial(searched[1], STUDY, ending="pruned")
    assert stage_of(searched).begins


def through(searched, tmp_path, accuracies: dict[int, float]) -> None:
    """Run the whole newest round: on folds and on test a finalist reaches its accuracy."""
    plan, record, url = searched
    finals = FinalRecord(plan, record, url)
    queue = FinalQueue(plan, finals, tmp_path / RUNS_FOLDER, lambda line: None)
    for index in range(100):
        handed = queue.next_run(str(index))
        if handed == "finished":
            return
        assert handed is not None
        if handed.kind is FinalTrial:
            handed.tensors.parent.mkdir(parents=True, exist_ok=True)
            handed.tensors.write_bytes(f"weights of {handed.config}".encode())
        accuracy = accuracies[handed.config.number] + handed.config.seed % 7 / 1000
        finish(queue, str(index), accuracy)
    raise AssertionError("it does not end")


def test_finalists_that_are_out_of_date_are_told_and_compared_again_on_request(tmp_path):
    small = {"num_finalists": 2, "num_folds": 2, "seeds": (1, 2)}
    searched = search(tmp_path, [0.5], num_trials=4)
    plan, record, _ = searched
    open_finals(searched, **small)
    through(searched, tmp_path, {0: 0.607})
    first = outcome_of(searched)
    assert stage_of(searched).is_over  # asked again it is shown, nothing is left to be done

    for accuracy in (0.8, 0.867, 0.4):
        run_trial(record, STUDY, accuracy=accuracy)
    told = (
        r"#0 when 1 of 4 trials had ended, now with 4 they are #2, #1.*--again.*"
        "test split was opened 2 times"
    )
    with pytest.raises(ValueError, match=told):
        stage_of(searched)
    stage = stage_of(searched, again=True)
    assert (stage.round, list(stage.finalists), stage.num_left) == (2, [2, 1], 6)
    finals = FinalRecord(*searched)
    finals.begin(STUDY, stage.protocol, "f")
    # Killed here: the same command goes on with round 2, it does not begin a third.
    assert stage_of(searched, again=True).round == stage_of(searched).round == 2
    assert outcome_of(searched).num_openings == 1
    through(searched, tmp_path, {1: 0.7, 2: 0.8})

    second = outcome_of(searched)
    assert (second.round, second.winner, second.num_openings, second.num_left) == (2, 2, 2, 0)
    (earlier,) = second.earlier
    kept = ("winner", "test_accuracies", "finalists", "num_trials_at_choice", "num_openings")
    assert all(getattr(earlier, name) == getattr(first, name) for name in kept)
    contents = final_contents(plan, plan.studies[0], FinalRecord(*searched))
    assert len({content.key for content in contents}) == len(contents) == 1 + 2 + 2 + 2
    assert {c.tags["round"] for c in contents if c.tags["trial"] == "0"} == {"1"}
    with pytest.raises(ValueError, match="nothing to do again"):
        stage_of(searched, again=True)


def test_more_trials_with_the_same_finalists_leave_the_number_current(tmp_path):
    searched = search(tmp_path, [0.5, 0.7], num_trials=3)
    open_finals(searched, num_finalists=1)
    run_trial(searched[1], STUDY, accuracy=0.6)
    assert stage_of(searched).round == 1
    assert outcome_of(searched).num_trials_at_choice == 2
    # An older version did not write down how many had ended.
    with closing(sqlite3.connect(searched[2].removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM study_user_attributes WHERE key = 'search'")
    assert outcome_of(searched).num_trials_at_choice == 2


def test_a_failed_run_may_be_done_again_in_a_round_of_its_own(searched):
    finals = open_finals(searched, num_finalists=1, num_folds=2, seeds=(1,))
    for fold in range(2):
        reach(finals, finals.chosen(STUDY)[0], fold, 0.5)
    finals.final_begun(STUDY, 1, {})
    finals.final_failed(STUDY, 1, "out of memory")
    assert stage_of(searched).is_over
    assert stage_of(searched, again=True).round == 2


def test_a_study_that_had_nothing_to_compare_is_begun_afresh(tmp_path):
    searched = search(tmp_path, [], num_trials=3)
    run_trial(searched[1], STUDY, ending="pruned")
    open_finals(searched)  # as an older version did
    assert outcome_of(searched).why == (
        "none of the 1 trial of the search that ended was complete: 1 pruned"
    )
    for accuracy in (0.4, 0.6):
        run_trial(searched[1], STUDY, accuracy=accuracy)
    stage = stage_of(searched)
    assert (stage.round, list(stage.finalists)) == (1, [2, 1])
    finals = FinalRecord(*searched)
    finals.begin(STUDY, stage.protocol, "f")
    assert finals.num_rounds(STUDY) == 1
    assert outcome_of(searched).why == "the finalists are still being compared"


def test_a_round_whose_driver_was_killed_before_its_finalists_were_chosen_is_begun(searched):
    plan, _, url = searched
    for kind in ("finalists", "final"):
        optuna.create_study(study_name=f"{plan.name}/{STUDY}/{kind}", storage=url)
    assert FinalRecord(*searched).num_rounds(STUDY) == 0
    assert stage_of(searched).begins
    assert len(open_finals(searched).finalists(STUDY)) == 3


def test_finalists_that_were_not_written_before_a_kill_are_written(searched):
    *_, url = searched
    finals = open_finals(searched)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        last = database.execute("SELECT max(trial_id) FROM trials").fetchone()
        for table in ("trial_user_attributes", "trials"):
            database.execute(f"DELETE FROM {table} WHERE trial_id = ?", last)
    finals = FinalRecord(*searched)
    assert len(finals.finalists(STUDY)) == 2
    assert finals.num_left(STUDY) == stage_of(searched).num_left == 3 * 5 + 5
    for number in finals.chosen(STUDY)[:2]:
        for fold in range(5):
            reach(finals, number, fold, 0.5)
    assert finals.winner(STUDY) is None  # the third was not compared
    finals.go_on(STUDY)
    assert len(finals.finalists(STUDY)) == 3


def finish(
    queue: FinalQueue, run_id: str, accuracy: float = 0.5, failure: str = "", **more: Any
) -> None:
    """What a worker would say at the end of a run."""
    rows = curve_to(accuracy, EPOCHS)
    tested = {"test_accuracy": accuracy, "num_test": 10, **more}
    facts = FinalFacts(**vars(trial_facts(rows)), **tested)
    end = Failed(failure, "config") if failure else Finished()
    queue.reported(run_id, Report(rows=rows, facts=facts, end=end))
    queue.forget(run_id)


def test_what_was_tested_is_told_with_its_images_and_classes(searched, tmp_path):
    plan, record, _ = searched
    finals = open_finals(searched, num_finalists=1, num_folds=2, seeds=(1, 2))
    queue = FinalQueue(plan, finals, tmp_path / "runs", lambda line: None)
    by_class = {"test_images_by_class": [9, 1], "test_correct_by_class": [9, 0]}
    by_class["test_confused"] = [[1, 0, 1]]
    for index in range(4):
        assert queue.next_run(str(index)) not in (None, "finished")
        finish(queue, str(index), 0.9, test_majority=9, **by_class)
    (outcome,) = outcomes(plan, record, finals)
    assert (outcome.num_test, outcome.test_majority) == (10, 9)
    assert outcome.test_images_by_class == [9, 1]
    assert outcome.test_correct_by_class == {1: [9, 0], 2: [9, 0]}
    (tmp_path / "final.json").write_text(json.dumps([asdict(outcome)]))
    (result,) = read_final_results(tmp_path)
    assert result.test_majority_share == 0.9
    assert result.test_correct_by_class == {1: (9, 0), 2: (9, 0)}
    assert outcome.test_confused == {1: [[1, 0, 1]], 2: [[1, 0, 1]]}
    assert result.test_confused == {1: ((1, 0, 1),), 2: ((1, 0, 1),)}
    with final_command.console.capture() as shown:
        final_command._show([outcome], tmp_path)
    assert "90.0 (59.6–98.2)" in shown.get()
    told = "90.0 % is what always answering the most frequent class gives (9 of 10 test images)"
    assert told in shown.get()
    # A file of an older version: the number of test images is in the storage.
    (older,) = with_test_images([replace(result, num_test=None)], finals)
    assert older.num_test == 10


def test_a_failed_seed_is_told_and_the_others_are_not_touched(searched, tmp_path):
    finals = open_finals(searched, num_finalists=1, num_folds=2, seeds=(1, 2, 3))
    said: list[str] = []
    queue = FinalQueue(searched[0], finals, tmp_path / "runs", said.append)
    for index, (accuracy, failure) in enumerate(
        [(0.5, ""), (0.6, ""), (0.4, ""), (0.0, "loss is nan at epoch 3"), (0.7, "")]
    ):
        assert queue.next_run(str(index)) not in (None, "finished")
        finish(queue, str(index), accuracy, failure)
    assert queue.next_run("one more") == "finished"
    runs = {run.seed: run for run in finals.final_runs(STUDY)}
    assert [runs[seed].state for seed in (1, 2, 3)] == ["complete", "failed", "complete"]
    assert runs[2].failure == "loss is nan at epoch 3"
    assert runs[2].test_accuracy is None
    assert any("seed 2: failed: loss is nan" in line for line in said)
    assert outcome_of(searched).bundle_seed == 1


def test_seeds_wait_for_the_comparison_and_a_kill_repeats_only_what_ran(searched, tmp_path):
    finals = open_finals(searched, num_finalists=1, num_folds=2, seeds=(1, 2))
    queue = FinalQueue(searched[0], finals, tmp_path / "runs", lambda line: None)
    assert queue.num_left == 4
    runs = [queue.next_run("a"), queue.next_run("b")]
    assert [run.config.fold for run in runs] == [0, 1]
    assert queue.next_run("c") is None  # nothing to do before a fold ends
    finish(queue, "a")
    # The driver dies here: fold 1 was running.
    again = FinalQueue(searched[0], finals, tmp_path / "runs", lambda line: None)
    run_again = again.next_run("a")
    assert run_again.config == runs[1].config
    finish(again, "a")
    assert {again.next_run(name).config.seed for name in "bc"} == {1, 2}
    assert again.next_run("d") == "finished"


def test_a_sweep_without_test_images_to_finalize_on_is_refused_before_anything_is_decoded(
    tmp_path,
):
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "photos" / split / label / "0.png")
    cache = ImageCache(tmp_path / "cache")
    request = SweepRequest(
        suite=str(tmp_path / "photos"), backbone="vit_quickstart", final=FinalProtocol()
    )
    said: list[str] = []
    with pytest.raises(DataError, match="needs a test split, and there is none in photos"):
        plan_sweep(request, name="s", cache=cache, say=said.append)
    assert not said
    assert not cache.root.exists()


def test_more_folds_than_labelled_images_are_refused_and_small_classes_told(tmp_path, caplog):
    task = read_vtab_task(write_task(tmp_path / "colours", per_class=2))
    refuse_unsuited([task], FinalProtocol(num_folds=4))
    assert not caplog.records
    refuse_unsuited([task], FinalProtocol(num_folds=5))
    assert "colours: 3 of 3 classes have fewer than 5 labelled images" in caplog.text
    with pytest.raises(DataError, match="fewer in colours: at most 12 folds are possible"):
        refuse_unsuited([task], FinalProtocol(num_folds=13))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return read_vtab_task(write_task(tmp_path_factory.mktemp("task") / "colours"))


@pytest.fixture
def suite(task) -> Suite:
    named = replace(task, name="caltech101")
    return Suite(name="vtab", tasks=(named,), root=None, default_backbone=None)


def test_every_round_keeps_its_bundle_and_the_seed_is_not_chosen_by_its_test(tmp_path, suite):
    searched = search(tmp_path, [0.5], num_trials=2)
    plan, record, _ = searched
    open_finals(searched, num_finalists=1, num_folds=2, seeds=(3, 1, 2))
    through(searched, tmp_path, {0: 0.6})
    bundle = tmp_path / "final" / "caltech101.yaml"

    def write() -> FinalResult:
        finals = FinalRecord(*searched)
        write_final(plan, lambda: suite, finals, outcomes(plan, record, finals), tmp_path)
        found = examine(plan, record, tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", finals)
        assert found.checked["final"] == 3
        assert not [finding for finding in found.findings if finding.about == "final"]
        (result,) = read_final_results(tmp_path)
        return result

    result = write()
    assert (result.test_accuracies, result.num_test) == ({3: 0.603, 1: 0.601, 2: 0.602}, 10)
    made = read_bundle(bundle)
    assert (made.trial.seed, made.round, made.num_openings) == (3, 1, 1)  # 2 is the median
    assert made.seed_rule == "first seed of the protocol that completed"
    runs = tmp_path / RUNS_FOLDER / STUDY
    assert [path.name for path in runs.glob("*.safetensors")] == ["seed-3.safetensors"]

    # An older version took the median, and said nothing of rules and rounds. It stays.
    older = replace(made, trial=replace(made.trial, seed=2), seed_rule="")
    for place in (bundle, tmp_path / "final" / "by_method" / "vpt_deep" / bundle.name):
        save_bundle(older, place.parent, runs / "seed-3.safetensors")
        unsaid = ("seed_rule:", "round:", "num_openings:")
        lines = place.read_text().splitlines(keepends=True)
        place.write_text("".join(line for line in lines if not line.startswith(unsaid)))
    content = bundle.read_bytes()
    write()
    assert bundle.read_bytes() == content
    told = (tmp_path / "final.json").read_text()
    (entry,) = json.loads(told)
    assert f'"finalists": {json.dumps(entry["finalists"])}' in told  # numbers in one line
    assert (entry["bundle_seed"], entry["seed_rule"]) == (2, "median on test")

    run_trial(record, STUDY, accuracy=0.9)
    FinalRecord(*searched).begin(STUDY, stage_of(searched, again=True).protocol, "f")
    through(searched, tmp_path, {1: 0.7})
    result = write()
    assert (result.round, result.num_openings, result.winner) == (2, 2, 1)
    assert result.earlier[0].test_accuracies == {3: 0.603, 1: 0.601, 2: 0.602}
    made = read_bundle(bundle)
    assert (made.trial.number, made.trial.seed, made.round, made.num_openings) == (1, 3, 2, 2)
    assert "opened 2 times" in bundle.with_suffix(".md").read_text()
    assert (tmp_path / "final" / "round-1" / bundle.name).read_bytes() == content
    table = pq.read_table(tmp_path / "final.parquet").to_pylist()
    tested = [(r["round"], r["trial"], r["num_trials_at_choice"]) for r in table if r["seed"]]
    assert tested == [(1, 0, 1)] * 3 + [(2, 1, 2)] * 3
    bundle.with_suffix(".safetensors").write_bytes(b"torn")
    finals = FinalRecord(*searched)
    found = examine(plan, record, tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", finals)
    (finding,) = [finding for finding in found.findings if finding.about == "final"]
    assert str(bundle) in finding.text


@pytest.fixture
def context(task, tmp_path) -> TrialContext:
    return context_of(task, tmp_path / "cache")


def fold_trial(context: TrialContext, fold: int) -> FoldTrial:
    (task,) = context.tasks
    config = FoldConfig(
        study="s", task=task, number=0, method="linear", config={}, seed=1,
        fold=fold, num_folds=4, fold_seed=0,
    )  # fmt: skip
    return FoldTrial(config, context, WorkerCache(2**20))


def test_a_fold_is_measured_on_labelled_images_that_it_was_not_trained_on(context):
    for fold in range(4):
        trial = fold_trial(context, fold)
        train, held_out = (trial.load_pixels(split) for split in trial.splits)
        images = [{image.numpy().tobytes() for image in part.images} for part in (train, held_out)]
        assert [len(part) for part in images] == [36, 12]
        assert not images[0] & images[1]


def test_a_trial_that_tries_to_open_the_test_split_gets_an_error(context, task):
    class Nosy(Trial):
        def epochs(self):
            cache = ImageCache(Path(self.context.cache_folder))
            searched = self.context.tasks[self.config.task]
            yield open_final_splits(searched, self.context.transform, cache)["test"]

    trial = fold_trial(context, 0)
    with pytest.raises(DataError, match="has no trainval split"):
        list(Nosy(trial.config, context, WorkerCache(2**20)).epochs())
    with pytest.raises(KeyError):
        Trial(trial.config, context, WorkerCache(2**20)).load_pixels("test")
    assert "test" in task.splits  # there is something to be kept from


def test_features_of_the_test_images_are_made_once_for_all_seeds(context, task, monkeypatch):
    final = FinalContext(**vars(context), final_tasks={task.name: task})
    passes = []

    def counted(model, pixels, *rest):
        passes.append(len(pixels))
        return frozen_prefix(model, pixels, *rest)

    monkeypatch.setattr(trial_module, "frozen_prefix", counted)
    facts = []
    for seed in (42, 44):
        config = trial_config(task.name, "linear", seed=seed, epochs=2, warmup_epochs=0.2)
        trial = FinalTrial(config, final, WorkerCache(2**20))
        list(trial.epochs())
        facts.append(trial.facts())
    assert sorted(passes) == sorted([48, facts[0].num_test])
    direct = FinalTrial(
        config, replace(final, engine=Engine(frozen_cache=False)), WorkerCache(2**20)
    )
    list(direct.epochs())
    told = direct.facts()
    assert told.test_accuracy == facts[1].test_accuracy
    images, right = told.test_images_by_class, told.test_correct_by_class
    assert (sum(images), max(images)) == (told.num_test, told.test_majority)
    assert sum(right) / sum(images) == told.test_accuracy
    assert all(0 <= some <= all_of for some, all_of in zip(right, images, strict=True))
    assert told.val_correct_by_class is None
    wrong = np.zeros(len(images), dtype=int)
    assert told.test_confused is not None
    for label, answer, number in told.test_confused:
        assert answer != label and number > 0
        wrong[label] += number
    assert wrong.tolist() == [of - some for of, some in zip(images, right, strict=True)]


def test_what_is_confused_is_counted_the_most_first():
    labels, answers = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 1, 1, 0])
    assert confused(answers, labels, 3) == [[0, 1, 2], [2, 0, 1], [2, 1, 1]]
    assert confused(labels, labels, 3) == []
    labels = torch.arange(101)
    assert len(confused(labels.flip(0), labels, 100 + 1)) == 20  # of many classes the first
    assert len(confused(labels[:100].flip(0), labels[:100], 100)) == 100


ONE_SLOT = ("--slots", 1, "--cpus-per-trial", 1)
PROTOCOL = ("--finalists", 2, "--folds", 3, "--seeds", "42,44", "--seeds", 82, *ONE_SLOT)


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    return tmp_path_factory.mktemp("finals")


@pytest.fixture(scope="module")
def finalized(tmp):
    """A finalized sweep, and a copy of it from before that was killed in the middle and resumed."""
    suite = write_task(tmp / "suite" / "colours").parent
    folder, copy = tmp / "first", tmp / "again" / "first"
    search = ("--backbone", "vit_quickstart", "--method", "vpt_deep", "--trials", 3)
    # Epochs enough that a fold takes longer than a look at the storage, on a fast machine, too.
    options = (*search, "--epochs", 40, "--pruner", "none", *ONE_SLOT)
    run("sweep", suite, *options, "--out", folder, tmp=tmp)
    shutil.copytree(folder, copy)
    output = run("finalize", folder, *PROTOCOL, tmp=tmp)
    process = subprocess.Popen(
        [*COMMAND, "finalize", str(copy), *map(str, PROTOCOL)],
        env=environment(tmp),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while folds_done(copy) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(300) == -signal.SIGKILL
    assert 2 <= folds_done(copy) < 6
    run("finalize", copy, *PROTOCOL, tmp=tmp)
    return folder, copy, output


def folds_done(folder: Path) -> int:
    url = f"sqlite:///{folder / 'studies.db'}"
    try:
        study = optuna.load_study(study_name="first/colours.vpt_deep/finalists", storage=url)
        return sum(len(trial.intermediate_values) for trial in study.trials)
    except KeyError:  # not made yet
        return 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_stage_goes_on_to_the_same_numbers(finalized):
    folder, copy, _ = finalized
    columns = ["stage", "trial", "fold", "seed", "state", "fold_accuracy", "test_accuracy"]
    rows, again = (
        pq.read_table(place / "final.parquet", columns=columns).to_pylist()
        for place in (folder, copy)
    )
    assert rows == again
    assert sum(row["stage"] == "final" for row in rows) == 3
    (result,) = read_final_results(folder)
    assert set(result.test_accuracies) == {42, 44, 82}
    assert all("val_accuracy" not in row for row in rows)


@pytest.mark.ray
@pytest.mark.slow
def test_the_final_bundle_reaches_on_the_test_files_what_was_recorded(finalized, tmp):
    folder, *_ = finalized
    model = load_bundle(folder / "final" / "colours.yaml")
    lines = (tmp / "suite" / "colours" / "test.txt").read_text().splitlines()
    files, labels = zip(*(line.split() for line in lines), strict=True)
    found = model.predict([tmp / "suite" / "colours" / file for file in files])
    correct = [p.label == int(label) for p, label in zip(found, labels, strict=True)]
    accuracies = model.bundle.test_accuracies
    assert np.mean(correct) == accuracies[model.bundle.trial.seed]
    assert model.bundle.trial.seed == 42  # the first, whatever it reached
    assert model.bundle.val_accuracy is None
    trained = json.loads(run("train", folder / "final" / "colours.yaml", "--json", tmp=tmp))
    assert trained["test_accuracy"] == trained["recorded"]
    (kept,) = (folder / "final_runs" / "colours.vpt_deep").glob("seed-*.safetensors")
    assert kept.stem == f"seed-{model.bundle.trial.seed}"


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_can_be_told_to_finalize(finalized, tmp):
    options = ("--method", "linear", "--trials", 1, "--epochs", 2, *ONE_SLOT, "--finalize")
    folder = tmp / "at-once"
    output = run(
        "sweep", tmp / "suite", "--backbone", "vit_quickstart", *options, "--out", folder, tmp=tmp
    )
    assert "colours.linear: the prompts in" in output
    (result,) = read_final_results(folder)
    assert set(result.test_accuracies) == {42, 44, 82, 100, 800}


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_that_was_stopped_is_not_finalized(tmp):
    folder, suite = tmp / "stopped", write_task(tmp / "stopped-suite" / "colours").parent
    options = ("--method", "linear", "--trials", 30, "--epochs", 200, *ONE_SLOT, "--finalize",
               "--most-finalists", 6, "--repeats", 1)  # fmt: skip
    told = run(
        "sweep", suite, "--backbone", "vit_quickstart", *options, "--max-hours", 0,
        "--out", folder, tmp=tmp, code=130,
    )  # fmt: skip
    assert f"orchestrator resume {folder}" in told
    after = f"orchestrator finalize {folder} --most-finalists 6 --repeats 1"
    assert f"the test split stays closed until then; after it: {after}" in told
    assert not (folder / "final.json").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_stage_is_told_and_tracked(finalized, tmp):
    folder, _, output = finalized
    assert "colours.vpt_deep: trial #" in output
    assert "those of seed 42, the first seed of the protocol that completed" in output
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("first")
    runs = client.search_runs([experiment.experiment_id], filter_string="tags.stage = 'final'")
    assert {run.data.params["seed"] for run in runs} == {"42", "44", "82"}
    assert all("test_accuracy" in run.data.metrics for run in runs)
    assert not any("val_accuracy" in run.data.metrics for run in runs)
    refused = run("finalize", folder, "--folds", 4, tmp=tmp, code=2)
    assert "its test images count once" in refused


@pytest.mark.ray
@pytest.mark.slow
def test_a_stage_that_is_over_is_shown_again_and_no_image_is_opened(finalized, tmp):
    folder, _, output = finalized
    elsewhere = tmp / "suite" / "colours" / "images.away"
    images = tmp / "suite" / "colours" / "images"
    bundle = (folder / "final" / "colours.yaml").read_bytes()
    images.rename(elsewhere)
    try:
        again = run("finalize", folder, tmp=tmp)
    finally:
        elsewhere.rename(images)
    assert again == output[output.index("task ") :]
    assert (folder / "final" / "colours.yaml").read_bytes() == bundle


@pytest.mark.ray
@pytest.mark.slow
def test_the_doctor_compares_the_runs_of_the_stage(finalized, tmp):
    folder = tmp / "examined"
    shutil.copytree(finalized[0], folder)
    repaired = json.loads(run("doctor", folder, "--repair", "--json", tmp=tmp))
    assert repaired["findings"] == []  # but for the addresses, which are the first folder's
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        changed = database.execute(
            "UPDATE latest_metrics SET value = 2 WHERE key = 'test_accuracy' AND run_uuid IN "
            "(SELECT run_uuid FROM tags WHERE key = 'mlflow.runName' AND value LIKE '%seed 44')"
        )
        assert changed.rowcount == 1
    (finding,) = json.loads(run("doctor", folder, "--json", tmp=tmp, code=1))["findings"]
    assert "colours.vpt_deep #final 44 as [('complete', 2.0)]" in finding["text"]
