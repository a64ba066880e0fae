"""The report says what the storage says, in every format."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import make_plan, make_record, run_trial
from synthetic_sweep import synthetic_plan, synthetic_record
from typer.testing import CliRunner

from orchestrator.cli import report as command
from orchestrator.record.database import default_storage
from orchestrator.record.record import open_record
from orchestrator.report.averages import (
    expected_tasks,
    mean_over_groups,
    mean_over_tasks,
    published_column,
    val_column,
    wins,
)
from orchestrator.report.collect import SweepReport, collect
from orchestrator.report.convergence import convergence
from orchestrator.report.figures import study_figures
from orchestrator.report.final import FINAL_FILE, FinalResult, read_final_results
from orchestrator.report.findings import headlines, remarks, still_rising
from orchestrator.report.formats import as_csv, document, latex, markdown, study_rows
from orchestrator.report.page import page
from orchestrator.report.prompts_vs_baselines import prompts_against, prompts_verdict
from orchestrator.report.table import result_tables
from orchestrator.report.tested import stage_lines
from orchestrator.report.wording import percent
from orchestrator.support.uncertainty import difference_error, standard_error

TASKS = ("caltech101", "eurosat")
SPACES = ("linear", "full", "vpt_deep")
SEEDS = (42, 44, 82, 100, 800)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "sweep"
    synthetic_record(synthetic_plan(tasks=TASKS, spaces=SPACES, num_trials=16, epochs=20), folder)
    return folder


def load(folder: Path, finals=()) -> SweepReport:
    plan = synthetic_plan(tasks=TASKS, spaces=SPACES, num_trials=16, epochs=20)
    return collect(plan, open_record(plan, folder), finals)


@pytest.fixture(scope="module")
def report(folder) -> SweepReport:
    return load(folder)


@pytest.fixture(scope="module")
def finished(folder) -> SweepReport:
    return load(folder, finals())


def finals() -> list[FinalResult]:
    return [
        FinalResult(
            task=task,
            space=space,
            test_accuracies={seed: 0.5 + 0.1 * place + seed / 1e5 for seed in SEEDS},
            num_test=5000,
            test_majority=900,
        )
        for task in TASKS
        for place, space in enumerate(SPACES)
    ]


# Numbers


def test_best_accuracies_are_those_in_the_storage(report, folder):
    url = default_storage(folder)
    rows = {(row["task"], row["space"]): row for row in study_rows(report)}
    assert len(rows) == len(TASKS) * len(SPACES)
    for (task, space), row in rows.items():
        study = optuna.load_study(study_name=f"synthetic/{task}.{space}", storage=url)
        assert row["val_accuracy"] == study.best_value
        states = [trial.state.name for trial in study.trials]
        assert row["complete"] == states.count("COMPLETE")
        assert row["pruned"] == states.count("PRUNED")
        assert row["failed"] == states.count("FAIL")
        ended = [trial for trial in study.trials if trial.state.name != "FAIL"]
        assert row["epochs_run"] == sum(len(trial.intermediate_values) for trial in ended)
        assert row["epochs_planned"] == 20 * len(ended)


def test_every_format_has_the_same_best_accuracies(report):
    tables = result_tables(report)
    texts = [markdown(tables), latex(tables), page(report)]
    by_csv = list(csv.DictReader(io.StringIO(as_csv(study_rows(report)))))
    by_json = json.loads(json.dumps(document(report)))["studies"]
    for study, line, entry in zip(report.studies, by_csv, by_json, strict=True):
        assert float(line["val_accuracy"]) == entry["val_accuracy"] == study.val_accuracy
        assert all(percent(study.val_accuracy) in text for text in texts)


def test_one_of_two_hundred_images_is_half_a_point():
    # sqrt(0.8 * 0.2 / 200)
    assert standard_error(0.8, 200) == pytest.approx(0.02828, abs=1e-5)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 500))
def test_the_error_of_a_difference_is_positive_symmetric_and_shrinks(first, second, images):
    a, b = first / 200, second / 200
    error = difference_error(a, images, b, images)
    assert error > 0
    assert error == difference_error(b, images, a, images)
    assert difference_error(a, 4 * images + 6, b, 4 * images + 6) < error


# Averages


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(expected_tasks(synthetic_plan()))), st.floats(0, 1)))
def test_averages_cover_what_they_say(values):
    expected = expected_tasks(synthetic_plan())
    over_tasks, over_groups = mean_over_tasks(values, expected), mean_over_groups(values, expected)
    if not values:
        assert over_tasks is None and over_groups is None
        return
    assert over_tasks and over_groups
    for mean in (over_tasks, over_groups):
        assert (mean.num_tasks, mean.num_expected) == (len(values), 19)
        assert mean.complete == (len(values) == 19)
        assert ("[" in str(mean)) != mean.complete
        low, high = min(values.values()), max(values.values())
        assert low - 1e-9 <= mean.value <= high + 1e-9
    assert math.isclose(over_tasks.value * len(values), sum(values.values()), abs_tol=1e-9)


def test_two_conventions_give_the_two_published_averages():
    # Jia et al. 2022, VPT-Deep on ViT-B/16: 69.43 over 19 tasks; 78.48, 82.43, 54.98 by group.
    plan = synthetic_plan(spaces=("vpt_deep",))
    report = SweepReport(plan=plan, studies=[], published_as=("ViT-B/16", "orig_in21k"))
    column = published_column(report, "vpt_deep")
    over_tasks, over_groups = column.over_tasks(), column.over_groups()
    assert over_tasks and over_tasks.value == pytest.approx(0.6943, abs=1e-4)
    assert over_groups and over_groups.value == pytest.approx(0.7196, abs=1e-4)


def test_an_average_over_part_of_a_suite_says_so(report):
    mean = val_column(report, "vpt_deep").over_tasks()
    assert str(mean).endswith("[2/19]")
    text = markdown(result_tables(report))
    assert r"\[2/19\]" in text and "not comparable" in text


def test_tasks_of_ones_own_are_a_suite_of_their_own():
    plan = make_plan(tasks=("mine", "caltech101"))
    assert set(expected_tasks(plan)) == {"mine", "caltech101"}


def test_wins_count_tasks_that_both_have(finished):
    from orchestrator.report.averages import test_column

    assert wins(finished, "vpt_deep", test_column) == "2 of 2"
    assert wins(finished, "linear", test_column) == "0 of 2"
    assert wins(finished, "full", test_column) is None


# Validation and test


def test_without_final_runs_no_number_of_ours_is_called_test(report):
    for table in result_tables(report):
        for index, column in enumerate(table.columns):
            if "test" not in column:
                continue
            assert "published" in column
            ours = {percent(study.val_accuracy) for study in report.studies}
            assert not ours & {row.cells[index].text for row in table.rows if not row.summary}
    assert all(row["test_accuracy_mean"] is None for row in study_rows(report))


def test_final_runs_are_shown_with_their_deviation_beside_the_published(finished):
    table = next(t for t in result_tables(finished) if t.title == "Test accuracy, %")
    assert table.columns[-3:] == ["vpt_deep test", "vpt_deep published test", "majority %"]
    row = next(row for row in table.rows if row.cells[0].text == "caltech101")
    # 70 + mean(seeds) / 1000, standard deviation of the seeds / 1000
    assert row.cells[-3].text == "70.2 ± 0.3"
    assert row.cells[-2].text == "90.8"
    assert row.cells[-1].text == "18.0"


def test_the_winner_of_the_finalists_is_shown_not_the_luckiest_of_the_search(folder):
    before = load(folder).by_task_and_space["caltech101", "linear"]
    assert before.best and before.chosen is before.best
    other = next(t for t in before.trials if t.state == "complete" and t is not before.best)
    won = FinalResult(
        task="caltech101",
        space="linear",
        test_accuracies={42: 0.61, 44: 0.63},
        winner=other.number,
        why="it won",
        cross_validation=0.6,
        cross_validation_interval=(0.5, 0.7),
        finalists=(other.number, before.best.number),
        num_trials_at_choice=9,
    )
    after = load(folder, [won])
    row = result_tables(after)[0].rows[0]
    texts = [cell.text for cell in row.cells]
    assert texts[:2] == ["caltech101", "linear"]
    assert texts[2].startswith(percent(other.val_accuracy)) and texts[3] == "62.0 ± 1.4"
    assert f"#{other.number}" in texts
    assert "Finalists: it won." in page(after)
    assert (
        "is 50.0 to 70.0 %. The mean may be a little high: it chose the winner among 2 finalists, "
        "and these are the best of 9 trials on validation images that are part of the folds."
    ) in page(after)
    assert "62.0 ± 1.4 %, by seed 61.0 (seed 42), 63.0 (seed 44)." in page(after)


@pytest.mark.parametrize(
    ("num_test", "text"), [(5000, "50.0 (48.6–51.4) (2 seeds)"), (None, "50.0 (2 seeds)")]
)
def test_seeds_that_are_missing_are_counted(folder, num_test, text):
    some = [*finals()]
    some[0] = replace(some[0], test_accuracies={42: 0.5, 44: 0.5}, num_test=num_test)
    table = next(t for t in result_tables(load(folder, some)) if t.title == "Test accuracy, %")
    assert table.rows[0].cells[1].text == text


def test_final_results_are_read_and_nonsense_is_refused(tmp_path):
    assert read_final_results(tmp_path) == []
    entry = {"task": "caltech101", "space": "linear", "test_accuracies": {"42": 0.5}}
    (tmp_path / FINAL_FILE).write_text(json.dumps([entry]))
    assert read_final_results(tmp_path)[0].test_accuracies == {42: 0.5}
    entry["test_accuracies"] = {"42": 50.0}
    (tmp_path / FINAL_FILE).write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=r"final\.json.*from 0 to 1, found 50\.0"):
        read_final_results(tmp_path)


def test_a_test_number_is_shown_with_how_it_came_about(folder):
    def told(**changes) -> tuple[list[str], list[str]]:
        report = load(folder, [replace(result, **changes) for result in finals()])
        table = next(t for t in result_tables(report) if t.title == "Test accuracy, %")
        best = result_tables(report)[0]
        assert [note for note in table.notes if note in best.notes]  # it has them too
        return list(table.notes), headlines(report)

    notes, said = told()
    assert "The test split was opened once for each study." in notes
    assert not any("out of date" in sentence for sentence in said)
    before = {"num_trials_at_choice": 3, "num_planned_trials": 16}
    notes, said = told(**before)
    assert any("before the search was over: caltech101.linear (3 of 16" in n for n in notes)
    assert any("before the search was over" in sentence for sentence in said)
    earlier = replace(finals()[0], winner=0, **before)
    notes, _ = told(round=2, num_openings=2, earlier=(earlier,))
    assert any("more than once for caltech101.linear (2 times)" in note for note in notes)
    notes, said = told(finalists=(99,), num_finalists=1, **before)
    assert any("out of date" in note for note in notes)
    assert any("out of date" in sentence for sentence in said)

    again = replace(finals()[0], num_openings=2, round=2, earlier=(earlier,))
    shown = page(load(folder, [again]))
    assert "The test split was opened 2 times" in shown
    assert "Round 1 before it: trial #0" in shown
    row = study_rows(load(folder, [again]))[0]
    assert (row["num_test_openings"], row["final_round"]) == (2, 2)
    trials = {study.name: study.trials for study in load(folder).studies}
    outdated = replace(again, finalists=(99,), num_finalists=1)
    plan = load(folder).plan
    lines = stage_lines([outdated], plan, trials.__getitem__)
    assert lines[0] == "last stage: 1 of 1 study tested"
    assert "round 2, after an earlier one" in lines[1]
    assert "out of date" in lines[2]
    assert stage_lines([], plan, trials.__getitem__) == []


def test_a_final_result_of_another_sweep_is_refused(folder):
    with pytest.raises(ValueError, match=r"mnist\.linear, not in this sweep"):
        load(folder, [FinalResult(task="mnist", space="linear", test_accuracies={1: 0.5})])


# Sentences


def test_convergence_is_told_by_how_long_the_best_has_stood(tmp_path):
    plan = make_plan(num_trials=12)
    record = make_record(plan, tmp_path)
    study = plan.studies[0].name
    for index in range(11):
        run_trial(record, study, accuracy=0.6 if index == 2 else 0.5)
    assert "not over (11 of 12 trials)" in convergence(collect(plan, record).studies[0]).sentence
    run_trial(record, study, accuracy=0.5)
    found = convergence(collect(plan, record).studies[0])
    assert found.converged and "trial 3 of the 12" in found.sentence and "75 %" in found.sentence


def test_a_late_best_is_not_convergence(tmp_path):
    plan = make_plan(num_trials=12)
    record = make_record(plan, tmp_path)
    for index in range(12):
        run_trial(record, plan.studies[0].name, accuracy=0.5 + 0.01 * index)
    found = convergence(collect(plan, record).studies[0])
    assert found.converged is False and "`--trials 30`" in found.sentence


def test_where_convergence_cannot_be_told_the_reason_and_a_way_stand(tmp_path):
    plan = make_plan(num_trials=4)
    record = make_record(plan, tmp_path)
    for _ in range(4):
        run_trial(record, plan.studies[0].name)
    report = collect(plan, record)
    found = convergence(report.studies[0])
    assert found.converged is None and found.short == "cannot say: 4 trials, 10 needed"
    assert "4 ended, at least 10 are needed" in found.sentence
    assert "`orchestrator resume` adds none" in found.sentence
    assert "a new sweep with `--trials 30` would" in found.sentence
    assert "1 had too few trials to tell convergence (at least 10 are needed)" in " ".join(
        headlines(report)
    )
    importance = next(f for f in study_figures(report.studies[0]) if f.title.startswith("Import"))
    assert "4 complete trials, at least 12 are needed" in importance.caption
    assert "`--trials 30`" in importance.caption


@pytest.mark.parametrize("num_trials", [6, 12])
def test_a_study_that_ended_early_counts_as_converged_only_where_that_can_be_told(
    tmp_path, num_trials: int
):
    plan = make_plan(num_trials=num_trials)
    record = make_record(plan, tmp_path)
    for index in range(num_trials):
        run_trial(record, plan.studies[0].name, accuracy=0.6 if index == 2 else 0.5)
    study = collect(plan, record).studies[0]
    found = convergence(replace(study, plan=replace(study.plan, ended="ended after some trials")))
    assert found.sentence.startswith("Ended after some trials")
    if num_trials < 10:
        assert (found.verdict, found.converged) == ("too few", None)
    else:
        assert found.verdict == "converged" and found.short == "yes: little left to gain"


def test_more_trials_are_not_advised_where_all_failed(tmp_path):
    plan = make_plan(num_trials=3)
    record = make_record(plan, tmp_path)
    for _ in range(3):
        run_trial(record, plan.studies[0].name, ending="failed")
    found = convergence(collect(plan, record).studies[0])
    assert found.short == "no complete trial" and "--trials" not in found.sentence
    assert "3 that ended; all of them failed, and their reasons come first" in found.sentence


def test_a_space_with_fewer_complete_trials_than_are_needed_should_be_wider(tmp_path):
    """Of its 14 configurations half would be pruned, as were half of those tried."""
    plan = make_plan(num_trials=4)
    lines = {"num_tokens": {"low": 1, "high": 7}, "optimizer": {"choices": ["sgd", "adamw"]}}
    plan = replace(plan, spaces={"vpt_deep": {**plan.spaces["vpt_deep"], "search": lines}})
    record = make_record(plan, tmp_path)
    for ending in ("complete", "pruned", "complete", "pruned"):
        run_trial(record, plan.studies[0].name, ending=ending)
    study = collect(plan, record).studies[0]
    found = next(f for f in study_figures(study) if f.title.startswith("Import")).caption
    assert "its space has 14 configurations" in found and "a wider one would" in found


def test_a_space_that_was_tried_in_full_is_not_too_few_trials(tmp_path):
    plan = make_plan(num_trials=4)
    lines = {"optimizer": {"choices": ["sgd", "adamw"]}, "num_tokens": {"choices": [1, 5]}}
    plan = replace(plan, spaces={"vpt_deep": {**plan.spaces["vpt_deep"], "search": lines}})
    record = make_record(plan, tmp_path)
    optuna_study = record.optuna_study(plan.studies[0].name)
    for optimizer in ("sgd", "adamw"):
        for num_tokens in (1, 5):
            optuna_study.enqueue_trial({"optimizer": optimizer, "num_tokens": num_tokens})
    for ending in ("complete", "complete", "pruned"):
        run_trial(record, plan.studies[0].name, ending=ending)
    assert "not over (3 of 4 trials)" in convergence(collect(plan, record).studies[0]).sentence
    run_trial(record, plan.studies[0].name)
    found = convergence(collect(plan, record).studies[0])
    assert found.converged and found.short == "yes: all 4 were tried"
    assert "All 4 configurations of the space were tried, 1 of them until" in found.sentence


@pytest.mark.parametrize(
    ("accuracies", "gained"),
    [
        ((0.3, 0.5, 0.6, 0.70), 0.1),
        ((0.3, 0.5, 0.69, 0.70), None),  # less than its standard error
        ((0.3, 0.8, 0.8, 0.70), None),
        ((0.70,), None),
    ],
)
def test_a_training_that_is_still_rising_at_its_end_is_told(tmp_path, accuracies, gained):
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    trial = run_trial(record, plan.studies[0].name, accuracy=0.7)
    curve = [{"epoch": n, "val_accuracy": value} for n, value in enumerate(accuracies, start=1)]
    study = replace(collect(plan, record).studies[0], trials=[replace(trial, curve=curve)])
    assert still_rising(study) == (None if gained is None else pytest.approx(gained))
    told = "Trial #0 was still rising at its end, by 10.0 points over the last quarter"
    assert any(told in remark for remark in remarks(study)) == (gained is not None)


@pytest.mark.parametrize(
    ("linear", "prompts", "verdict"),
    [(0.5, 0.8, "better"), (0.8, 0.5, "worse"), (0.8, 0.81, "unclear")],
)
def test_prompts_are_judged_by_the_uncertainty(tmp_path, linear, prompts, verdict):
    plan = make_plan(spaces=("linear", "vpt_deep"), num_trials=1)
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.linear", accuracy=linear)
    run_trial(record, "caltech101.vpt_deep", accuracy=prompts)
    report = collect(plan, record)
    found = prompts_against(report, "caltech101", "linear")
    assert found and found.verdict == verdict
    assert prompts_against(report, "caltech101", "full") is None
    said = {"better": "better than", "worse": "worse than", "unclear": "not told apart from"}
    assert f"{said[verdict]} the linear probe" in (prompts_verdict(report, "caltech101") or "")


def test_prompts_are_judged_on_test_images_where_there_are_any(report, finished):
    # 0.7 against 0.5 with the same seeds: the difference is exact but for the test images.
    found = prompts_against(finished, "caltech101", "linear")
    assert found and found.images == "test" and found.value == pytest.approx(0.2)
    assert found.verdict == "better"
    before = prompts_against(report, "caltech101", "linear")
    assert before and before.images == "validation"
    assert "on test images: better on 2, worse on 0, unclear on 0 of 2" in headlines(finished)[0]


def test_no_sentence_mixes_validation_and_test(report, finished):
    """Of one task only one side was finalized, so that both kinds of images are told of."""
    some = [final for final in finished.studies if final.final]
    assert some
    half = replace(
        finished,
        studies=[
            replace(study, final=None) if study.name == "eurosat.linear" else study
            for study in finished.studies
        ],
    )
    for told in (report, finished, half):
        sentences = [*headlines(told)]
        for task in TASKS:
            sentences += (prompts_verdict(told, task) or "").split(". ")
        for sentence in sentences:
            assert not ("test images" in sentence and "validation" in sentence), sentence
    assert any("on validation images: better on 1" in line for line in headlines(half))
    cells = [cell.text for row in result_tables(half)[0].rows for cell in row.cells]
    assert sum(text.endswith(" on val") for text in cells) == 1


def test_every_accuracy_of_all_right_is_written_with_its_bound(tmp_path):
    plan = make_plan(spaces=("linear", "vpt_deep"), num_trials=1)
    plan = replace(plan, tasks=(replace(plan.tasks[0], val_majority=190),))
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.linear", accuracy=0.0)
    run_trial(record, "caltech101.vpt_deep", accuracy=1.0)
    tested = [
        FinalResult(
            task="caltech101",
            space=space,
            test_accuracies=dict.fromkeys(SEEDS, accuracy),
            num_test=1000,
            test_majority=950,
        )
        for space, accuracy in (("linear", 0.0), ("vpt_deep", 1.0))
    ]
    report = collect(plan, record, tested)
    tables = result_tables(report)
    texts = [markdown(tables), latex(tables), page(report), json.dumps(document(report))]
    for text in texts:
        assert not re.search(r"(±|\$\\pm\$) *0\.0\b", text)
    for text in texts[:3:2]:
        assert "100.0 (≥ 98.1)" in text and "100.0 (≥ 99.6)" in text and "0.0 (≤ 1.9)" in text
        assert "95.0" in text, "the majority share"
    assert r"100.0 ($\geq$ 98.1)" in texts[1]
    (linear, vpt) = study_rows(report)
    assert (vpt["val_majority_share"], vpt["test_majority_share"]) == (0.95, 0.95)
    assert vpt["val_interval_low"] == pytest.approx(0.98115, abs=1e-5)
    assert vpt["val_standard_error"] > 0
    assert linear["test_interval_high"] == pytest.approx(0.00383, abs=1e-5)
    told = "95.0 % is what always answering the most frequent class gives (190 of 200 validation"
    assert any(told in line for line in headlines(report))
    assert told in page(report)


def test_headlines_count_what_happened(report):
    text = " ".join(headlines(report))
    pruned = sum(study.states["pruned"] for study in report.studies)
    assert f"Pruning stopped {pruned} of 96 trials early" in text
    assert "of 2 tasks" in text


def test_a_study_that_has_not_begun_is_shown_as_missing(tmp_path):
    plan = make_plan(spaces=("linear", "vpt_deep"))
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.linear", accuracy=0.5)
    report = collect(plan, record)
    table = next(t for t in result_tables(report) if t.title.startswith("Validation"))
    assert [cell.text for cell in table.rows[0].cells] == ["caltech101", "50.0 ± 3.5", "–"]
    assert "No trial has finished an epoch yet." in page(report)
    assert "has not" not in page(report) and "no complete trial yet" in page(report)


# Figures


def test_every_figure_is_drawn_or_gives_its_reason(report):
    for study in report.studies:
        figures = study_figures(study)
        searched = [dimension.name for dimension in study.space.dimensions]
        assert [figure.title for figure in figures] == [
            "Learning curves",
            "Losses of the best trial",
            "Best so far over compute",
            "Pruning timeline",
            "Importance of hyper-parameters",
            "Parallel coordinates",
            *(f"Accuracy against {name}" for name in searched),
        ]
        for figure in figures:
            assert figure.svg or figure.caption.startswith("Not shown"), figure


def test_a_pruned_curve_ends_where_its_trial_was_stopped(tmp_path):
    plan = make_plan(num_trials=2)
    record = make_record(plan, tmp_path)
    run_trial(record, plan.studies[0].name, accuracy=0.9)
    run_trial(record, plan.studies[0].name, ending="pruned", accuracy=0.4)
    figure = study_figures(collect(plan, record).studies[0])[0]
    assert figure.svg
    assert "#1 26.7 %, pruned after 2 epochs: " in figure.svg
    assert figure.svg.count('class="pruned"') == 1 and 'class="pruned end"' in figure.svg


def test_an_epoch_that_is_not_a_number_leaves_a_gap(tmp_path):
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    study = plan.studies[0].name
    trial = record.ask(study)
    rows = [{"epoch": 1, "val_accuracy": 0.4}, {"epoch": 2, "val_accuracy": math.nan}]
    record.fail(study, trial.number, reason="val_accuracy nan", curve=rows)
    report = collect(plan, record)
    assert all("nan" not in (figure.svg or "") for figure in study_figures(report.studies[0]))
    assert "val_accuracy nan" in page(report)


# Commands


@pytest.fixture
def run():
    import typer

    app = typer.Typer()
    app.command()(command.report)
    app.command()(command.compare)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_prints_tables_and_writes_the_page(run, folder):
    found = run("report", folder)
    assert found.exit_code == 0, found.output
    assert "Best configuration of each task" in found.output
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("format", ["md", "csv", "latex", "json"])
def test_the_command_speaks_to_programs(run, folder, tmp_path, format):
    found = run("report", folder, "--format", format, "--html", tmp_path / "there.html")
    assert found.exit_code == 0, found.output
    assert (tmp_path / "there.html").is_file()
    match format:
        case "json":
            assert len(json.loads(found.output)["studies"]) == 6
        case "csv":
            assert len(list(csv.DictReader(io.StringIO(found.output)))) == 6
        case "latex":
            assert r"vpt\_deep & " in found.output and r"\toprule" in found.output
        case "md":
            assert r"| vpt\_deep | " in found.output


@pytest.mark.slow
def test_commands_that_only_read_load_neither_ray_nor_mlflow(folder):
    program = """if True:
        import sys
        from orchestrator.cli import app
        for command in (["status"], ["report"], ["compare", sys.argv[1]]):
            app([*command, sys.argv[1]], standalone_mode=False)
        print({"ray", "mlflow"} & set(sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_a_folder_that_is_no_sweep_is_refused(run, tmp_path):
    found = run("report", tmp_path)
    assert isinstance(found.exception, ValueError) and "not a sweep folder" in str(found.exception)


def test_a_page_for_no_folder_is_refused(run, folder, tmp_path):
    found = run("report", folder, "--html", tmp_path / "nowhere" / "page.html")
    assert isinstance(found.exception, ValueError) and "there is no folder" in str(found.exception)


def test_a_table_cell_cannot_leave_its_cell():
    plan = make_plan(tasks=("a|b\n\\end{tabular}<b>",))
    report = SweepReport(plan=plan, studies=[], published_as="nothing")
    tables = result_tables(report)
    assert r"| a\|b \\end\{tabular\}\<b\> |" in markdown(tables)
    assert r"a|b \textbackslash{}end\{tabular\}\textless{}b\textgreater{} &" in latex(tables)
