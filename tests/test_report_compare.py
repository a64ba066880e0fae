"""Two sweeps side by side."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from plans import make_plan, make_record, run_trial
from typer.testing import CliRunner

from orchestrator.cli import report as command
from orchestrator.plan.plan import SweepPlan, save_plan
from orchestrator.report.collect import SweepReport, collect
from orchestrator.report.compare import (
    compare,
    comparison_document,
    comparison_sentences,
    comparison_tables,
)
from orchestrator.report.difference import over_seeds
from orchestrator.report.final import FinalResult
from orchestrator.report.formats import markdown

NUM_TEST = 10_000

BOTH = {"tasks": ("caltech101", "eurosat"), "num_trials": 1}


def sweep(folder: Path, plan: SweepPlan, accuracy: float, tests=()) -> SweepReport:
    folder.mkdir()
    save_plan(plan, folder)
    record = make_record(plan, folder)
    for study in plan.studies:
        run_trial(record, study.name, accuracy=accuracy)
    finals = [
        FinalResult(
            task="caltech101", space="vpt_deep", test_accuracies=dict(tests), num_test=NUM_TEST
        )
        for _ in range(bool(tests))
    ]
    return collect(plan, record, finals)


def test_what_older_plans_do_not_say_is_no_difference(tmp_path):
    plan = make_plan(**BOTH)
    told = replace(plan.backbone, num_heads=3, activation="gelu", norm_eps=1e-6, assumed="timm's")
    newer = replace(plan, backbone=told, split_seed=0)
    found = compare(sweep(tmp_path / "a", plan, 0.5), sweep(tmp_path / "b", newer, 0.5))
    assert not found.changes


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [(0.5, 0.8, "better"), (0.8, 0.5, "worse"), (0.8, 0.82, "unclear")],
)
def test_a_difference_counts_from_two_standard_errors_on(tmp_path, first, second, verdict):
    plan = make_plan(**BOTH)
    found = compare(sweep(tmp_path / "a", plan, first), sweep(tmp_path / "b", plan, second))
    for pair in found.pairs:
        assert pair.val and pair.val.value == pytest.approx(second - first)
        # The square root of the sum of two variances p(1-p)/200.
        expected = ((first * (1 - first) + second * (1 - second)) / 200) ** 0.5
        assert pair.val.error == pytest.approx(expected, rel=0.02)
        assert pair.val.verdict == verdict
    said = {"better": "better on 2", "worse": "worse on 2", "unclear": "unclear on 2"}
    assert said[verdict] in comparison_sentences(found)[0]


def test_test_accuracies_are_paired_by_seed(tmp_path):
    plan = make_plan(**BOTH)
    first = sweep(tmp_path / "a", plan, 0.5, {42: 0.50, 44: 0.70, 82: 0.60})
    second = sweep(tmp_path / "b", plan, 0.5, {42: 0.53, 44: 0.72, 82: 0.61, 7: 0.9})
    pair = next(p for p in compare(first, second).pairs if p.first.plan.task == "caltech101")
    assert pair.test and pair.test.value == pytest.approx(0.02)
    # Beside the seeds' 0.01 / sqrt(3) the images' p (1 - p) / n of both sides.
    images = (0.6 * 0.4 + 0.62 * 0.38) / NUM_TEST
    assert pair.test.error == pytest.approx((0.01**2 / 3 + images) ** 0.5, rel=1e-3)
    # Two standard errors are not enough where three seeds say how far runs lie apart.
    assert 2 * pair.test.error < pair.test.value < pair.test.counts_from
    assert pair.test.verdict == "unclear"


def test_without_common_seeds_the_spreads_add_up(tmp_path):
    plan = make_plan(**BOTH)
    first = sweep(tmp_path / "a", plan, 0.5, {1: 0.50, 2: 0.70})
    second = sweep(tmp_path / "b", plan, 0.5, {3: 0.53, 4: 0.73})
    pair = next(p for p in compare(first, second).pairs if p.test)
    assert pair.test and pair.test.error == pytest.approx((2 * 0.02 / 2) ** 0.5, rel=2e-3)
    assert pair.test.verdict == "unclear"


def test_seeds_that_agree_do_not_make_a_difference_of_one_image_clear(tmp_path):
    few = {seed: 0.50 for seed in range(5)}, {seed: 0.51 for seed in range(5)}
    found = over_seeds(few[1], 100, few[0], 100)
    assert found and found.verdict == "unclear" and found.error > 0.06
    assert str(found) == "+1.0 ± 7.0"
    certain = over_seeds({1: 1.0, 2: 1.0}, 20, {1: 1.0, 2: 1.0}, 20)
    assert certain and certain.error > 0.05


def test_without_the_number_of_test_images_no_test_difference_is_told(tmp_path):
    plan = make_plan(**BOTH)
    before = sweep(tmp_path / "a", plan, 0.5, {1: 0.5, 2: 0.7})
    (study, other) = before.studies
    unknown = replace(study, final=replace(study.final, num_test=None))
    older = replace(before, studies=[unknown, other])
    assert all(pair.test is None for pair in compare(before, older).pairs)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.04])
def test_a_difference_that_is_none_is_rarely_called_one(num_seeds, spread):
    """Two methods equally good in truth, seeds that move a run, and test images that all share."""
    random = np.random.default_rng(1)
    images, told = 500, 0
    for _ in range(1500):
        hard = random.random(images)
        sides = []
        for _ in range(2):
            # Half of what makes an image hard is the method's own.
            own = np.where(random.random(images) < 0.5, random.random(images), hard)
            truth = 0.8 + spread * random.standard_normal(num_seeds)
            sides.append({seed: float((own < truth[seed]).mean()) for seed in range(num_seeds)})
        found = over_seeds(sides[0], images, sides[1], images)
        told += found is not None and found.verdict != "unclear"
    # At two standard errors 4.55 % by chance; less where the images that both share count for much.
    assert told / 1500 < 0.06


def test_a_difference_there_is_is_found():
    random = np.random.default_rng(2)
    verdicts = []
    for _ in range(200):
        ours, theirs = (
            {s: float((random.random(2000) < share).mean()) for s in range(5)}
            for share in (0.86, 0.80)
        )
        found = over_seeds(ours, 2000, theirs, 2000)
        verdicts.append(found and found.verdict)
    assert verdicts.count("better") > 190


def test_two_seeds_must_differ_by_much():
    wide = {1: 0.5, 2: 0.7}, {1: 0.6, 2: 0.6}
    found = over_seeds(wide[0], 10**6, wide[1], 10**6)
    # Student's t with one degree of freedom at the level of two standard errors.
    assert found and found.counts_from == pytest.approx(13.97 * found.error, rel=1e-3)


def test_what_differed_is_named_and_nothing_else(tmp_path):
    plan = make_plan(**BOTH)
    first = sweep(tmp_path / "a", plan, 0.5)
    space = {
        **plan.spaces["vpt_deep"],
        "fixed": {**plan.spaces["vpt_deep"]["fixed"], "dropout": 6 * 0.1},
    }
    other = replace(
        plan,
        name="other",
        created="2026-12-01T00:00:00+00:00",
        sampler="tpe",
        spaces={"vpt_deep": space},
        backbone=replace(plan.backbone, name="vit_other", weights="/elsewhere/vit.safetensors"),
        tasks=(replace(plan.tasks[0], root="/elsewhere", fingerprint="other"), plan.tasks[1]),
        versions={**plan.versions, "torch": "2.16.0"},
        studies=(replace(plan.studies[0], num_trials=2), plan.studies[1]),
    )
    found = compare(first, sweep(tmp_path / "b", other, 0.5))
    assert {(c.kind, c.name, c.first, c.second) for c in found.changes} == {
        ("data", "tasks caltech101 fingerprint", "fingerprint-of-caltech101", "other"),
        ("configuration", "backbone name", "vit_tiny_patch16_224", "vit_other"),
        ("configuration", "sampler", "random", "tpe"),
        ("configuration", "spaces vpt_deep fixed dropout", "–", "0.6"),
        ("configuration", "trials of caltech101.vpt_deep", "1", "2"),
        ("versions", "versions torch", "2.15.0", "2.16.0"),
    }
    text = markdown(comparison_tables(found), comparison_sentences(found))
    assert "caltech101 (other images)" in text
    assert "Not the same images, so a difference may be the data's: caltech101." in text


def test_equal_sweeps_differ_in_nothing(tmp_path):
    plan = make_plan(**BOTH)
    report = sweep(tmp_path / "a", plan, 0.5)
    found = compare(report, report)
    assert not found.changes
    assert "Same configuration, data and versions." in comparison_sentences(found)


def test_a_plan_of_before_the_majority_was_kept_is_no_difference(tmp_path):
    plan = make_plan(**BOTH)
    told = replace(plan.tasks[0], val_majority=30, class_names=tuple("abcdefghij"))
    newer = sweep(tmp_path / "b", replace(plan, tasks=(told, plan.tasks[1])), 0.5)
    found = compare(sweep(tmp_path / "a", plan, 0.5), newer)
    assert not found.changes
    table = comparison_tables(found)[0]
    column = table.columns.index("val majority %")
    assert [row.cells[column].text for row in table.rows] == ["15.0", "–", ""]


def test_studies_of_one_sweep_only_are_listed(tmp_path):
    first = sweep(tmp_path / "a", make_plan(tasks=("caltech101", "dmlab"), num_trials=1), 0.5)
    second = sweep(tmp_path / "b", make_plan(tasks=("caltech101", "svhn"), num_trials=1), 0.5)
    found = compare(first, second)
    assert [pair.first.name for pair in found.pairs] == ["caltech101.vpt_deep"]
    assert (found.only_first, found.only_second) == (["dmlab.vpt_deep"], ["svhn.vpt_deep"])


def test_sweeps_without_a_common_study_are_only_told_apart(tmp_path):
    first = sweep(tmp_path / "a", make_plan(tasks=("dmlab",), num_trials=1), 0.5)
    second = sweep(tmp_path / "b", make_plan(tasks=("svhn",), num_trials=1), 0.5)
    found = compare(first, second)
    assert comparison_tables(found) == []
    assert comparison_sentences(found)[:2] == [
        "There is no study of which both have finished trials.",
        "Only in first: dmlab.vpt_deep.",
    ]


def test_a_mean_over_some_of_the_tasks_is_not_given(tmp_path):
    plan = make_plan(**BOTH)
    first = sweep(tmp_path / "a", plan, 0.5)
    (tmp_path / "b").mkdir()
    second = collect(plan, make_record(plan, tmp_path / "b"))
    table = comparison_tables(compare(first, second))[0]
    assert table.rows[-1].cells[0].text == "mean of 2 tasks"
    assert table.rows[-1].cells[table.columns.index("val difference")].text == "–"


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("two")
    for name, accuracy in (("a", 0.5), ("b", 0.8)):
        sweep(root / name, make_plan(name=name, num_trials=1), accuracy)
    return [str(root / "a"), str(root / "b")]


@pytest.mark.parametrize("format", ["terminal", "md", "csv", "latex", "json"])
def test_the_command_in_every_format(two_folders, format):
    app = typer.Typer()
    app.command()(command.compare)
    found = CliRunner().invoke(app, [*two_folders, "--format", format])
    assert found.exit_code == 0, found.output
    match format:
        case "json":
            study = json.loads(found.output)["studies"][0]
            assert study["val_difference"] == pytest.approx(0.3)
        case "csv":
            line = next(csv.DictReader(io.StringIO(found.output)))
            assert float(line["val_difference"]) == pytest.approx(0.3)
        case _:
            assert "30.0" in found.output and "better" in found.output


def test_the_document_has_everything(tmp_path):
    report = sweep(tmp_path / "a", make_plan(num_trials=1), 0.5)
    found = comparison_document(compare(report, report))
    assert set(found) == {"first", "second", "studies", "only_first", "only_second", "changes"}
