"""What is measured and maximised: the scores, how sure they are, and that a sweep names them."""

import json
from dataclasses import replace
from itertools import pairwise

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plans import make_plan
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from suites import write_task
from test_sweep import run
from trials import context_of, trial_config

from orchestrator.bundle.bundle import read_bundle
from orchestrator.data.suites import load_suite
from orchestrator.plan.metrics import metrics_by_task, metrics_of_suite
from orchestrator.plan.plan import plan_document, read_plan
from orchestrator.record.record import Record
from orchestrator.report.collect import collect
from orchestrator.report.compare import compare, comparison_sentences
from orchestrator.report.final import read_final_results
from orchestrator.report.metric_names import notes_on_metrics, score_words
from orchestrator.report.table import result_tables
from orchestrator.support.uncertainty import standard_error
from orchestrator.training.objective import METRICS, is_score, together
from orchestrator.training.trial import run_trial
from orchestrator.training.worker_cache import WorkerCache

MEAN = METRICS["mean_per_class"]
NUM_CLASSES = 6
SKEWED = (60, 6, 6)


@st.composite
def judged_images(draw):
    """Logits and labels of some images; not every class has one."""
    labels = draw(arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 5)))
    seed = draw(st.integers(0, 1000))
    logits = torch.randn(len(labels), NUM_CLASSES, generator=torch.Generator().manual_seed(seed))
    return logits, labels


@given(judged_images(), st.lists(st.integers(0, 40), max_size=6))
def test_a_score_is_what_its_name_says_however_the_images_are_split_into_batches(images, cuts):
    logits, labels = images
    expected = {
        "top1": accuracy_score(labels, logits.argmax(1)),
        # It warns of classes that are only among the answers, and leaves them out as we do.
        "mean_per_class": np.mean(
            [(logits.argmax(1).numpy() == label)[labels == label].mean() for label in set(labels)]
        ),
    }
    bounds = sorted({0, len(labels), *(cut for cut in cuts if cut < len(labels))})
    for name, objective in METRICS.items():
        targets = objective.targets(labels)
        parts = [slice(*ends) for ends in pairwise(bounds)]
        marks = torch.cat([objective.marks(logits[part], targets[part]) for part in parts])
        score = objective.score(marks, targets).item()
        assert score == pytest.approx(expected[name], abs=1e-12)
        assert is_score(score)
        right, of_class = objective.by_class(marks, targets, NUM_CLASSES)[::-1]
        assert (sum(of_class), sum(right)) == (len(labels), int(marks.sum()))


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_mean_per_class_is_scikit_learns_balanced_accuracy():
    rng = np.random.default_rng(0)
    labels, found = rng.integers(0, NUM_CLASSES, (2, 500)) ** 2 // 5
    targets = MEAN.targets(labels)
    score = MEAN.score(torch.from_numpy(found == labels), targets).item()
    assert score == pytest.approx(balanced_accuracy_score(labels, found))
    assert MEAN.constant_score(labels) == balanced_accuracy_score(labels, np.zeros_like(labels))


@pytest.mark.parametrize(
    ("images", "chances"),
    [
        ([20] * 10, np.linspace(0.5, 1, 10)),
        ([2] * 60, [0.95] * 60),
        ([1] * 100, [0.8] * 100),
        ([60, 6, 6], [0.95, 0.5, 0.4]),
        ([60, 6, 6], [0.99, 0.05, 0.05]),
        ([1, 2, 3, 4, 5] * 20, [*[0.99] * 80, *[0.4] * 20]),
    ],
)
def test_the_standard_error_is_how_far_scores_lie_apart(images, chances):
    """Never far below it, whatever the classes are like."""
    images, rng = np.array(images), np.random.default_rng(0)
    targets = torch.repeat_interleave(torch.arange(len(images)), torch.from_numpy(images))
    scores, variances = [], []
    for _ in range(400):
        marks = torch.from_numpy(rng.random(len(targets)) < np.array(chances)[targets])
        score = MEAN.score(marks, targets).item()
        scores.append(score)
        variances.append(standard_error(score, MEAN.effective_images(marks, targets) or 0) ** 2)
    assert 0.85 < np.sqrt(np.mean(variances)) / np.std(scores) < 1.7


def test_equal_classes_that_are_all_right_are_as_sure_as_an_accuracy():
    targets = torch.arange(5).repeat(40)
    assert MEAN.effective_images(torch.ones(200, dtype=torch.bool), targets) == pytest.approx(200)
    assert MEAN.effective_images_of(targets.numpy()) == pytest.approx(200)
    few = torch.cat([targets, torch.tensor([5])])  # one class of a single image makes it unsure
    assert 20 < (MEAN.effective_images_of(few.numpy()) or 0) < 40
    assert together([50, 200]) == 80


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], ("top1", "top1")),
        (["mean_per_class"], ("mean_per_class", "mean_per_class")),
        (["pets=mean_per_class"], ("top1", "mean_per_class")),
        (["pets=top1", "mean_per_class"], ("mean_per_class", "top1")),
    ],
)
def test_a_metric_is_named_for_all_tasks_or_for_one(asked, found):
    assert tuple(metrics_by_task(asked, ["svhn", "pets"]).values()) == found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["mean_per_clas"], "did you mean 'mean_per_class'"),
        (["pet=top1"], "did you mean 'pets'"),
        (["=top1"], "unknown task ''"),
        (["top1", "mean_per_class"], "named before"),
        (["pets=top1", "pets=top1"], "metric of pets was named before"),
    ],
)
def test_a_metric_that_means_nothing_is_refused_before_anything_starts(asked, said):
    with pytest.raises(ValueError, match=said):
        metrics_by_task(asked, ["svhn", "pets"])


def test_a_suite_s_own_file_names_the_metrics_of_its_tasks(tmp_path):
    tasks = ["svhn", "pets"]
    assert metrics_of_suite(tmp_path, tasks, all_tasks=True) == {}
    file = tmp_path / "suite.yaml"
    file.write_text("metrics:\n  pets: mean_per_class\n")
    of_suite = metrics_of_suite(tmp_path, tasks, all_tasks=True)
    assert metrics_by_task([], tasks, of_suite=of_suite) == {
        "svhn": "top1",
        "pets": "mean_per_class",
    }
    for asked in (["top1"], ["pets=top1"]):  # what is asked goes before it
        assert set(metrics_by_task(asked, tasks, of_suite=of_suite).values()) == {"top1"}
    # Of a suite of which only some tasks are searched, the others may stand in its file.
    assert metrics_by_task(
        [], ["svhn"], of_suite=metrics_of_suite(tmp_path, ["svhn"], all_tasks=False)
    ) == {"svhn": "top1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metrics: {pet: mean_per_class}", "suite.yaml: metrics: .*did you mean 'pets'"),
        ("metrics: {pets: mean_per_clas}", "suite.yaml.*pets: expected one of top1"),
        ("metric: {pets: top1}", "suite.yaml.*did you mean 'metrics'"),
        ("top1", "suite.yaml"),
    ],
)
def test_a_suite_s_file_that_means_nothing_is_refused(tmp_path, text, said):
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        metrics_of_suite(tmp_path, ["svhn", "pets"], all_tasks=True)


def test_plans_and_storages_of_before_metrics_are_about_top1(tmp_path):
    plan = make_plan(num_trials=2)
    document = plan_document(plan)
    for field in ("metric", "val_baseline", "val_effective_images"):
        del document["tasks"][0][field]
    assert read_plan(document, source="old") == plan
    document["tasks"][0]["metric"] = "top5"
    with pytest.raises(ValueError, match="metric: expected one of top1, mean_per_class"):
        read_plan(document, source="new")
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = Record(plan, url).optuna_study("caltech101.vpt_deep")
    stored = {key: value for key, value in study.user_attrs["plan"].items() if key != "metric"}
    study.set_user_attr("plan", stored)
    Record(plan, url)
    other = replace(plan, tasks=tuple(replace(t, metric="mean_per_class") for t in plan.tasks))
    with pytest.raises(ValueError, match="metric: was 'top1', is 'mean_per_class'"):
        Record(other, url)


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def skewed(tmp):
    """A suite of one task: ten images of the first class for one of each other, hard to tell."""
    return write_task(tmp / "suite" / "skewed", counts=SKEWED, noise=60, seed=1).parent


def test_the_metric_decides_which_configuration_is_the_best_and_nothing_about_training(skewed, tmp):
    (task,) = load_suite(str(skewed)).tasks
    best = {}
    for metric in METRICS:
        context = replace(context_of(task, tmp / "cache"), metrics={task.name: metric})
        found = {}
        for lr in (0.001, 1.0):
            config = trial_config(task.name, "linear", epochs=6, warmup_epochs=0.5, lr=lr)
            trial, rows = run_trial(config, context, WorkerCache(2**24))
            facts = trial.facts().stored()
            images, right = (
                np.array(facts[name]) for name in ("val_images_by_class", "val_correct_by_class")
            )
            expected = right.sum() / images.sum() if metric == "top1" else (right / images).mean()
            assert rows[-1]["val_accuracy"] == pytest.approx(expected)
            assert ("val_effective_images" in facts) == (metric != "top1")
            found[lr] = rows
        best[metric] = max(found, key=lambda lr: found[lr][-1]["val_accuracy"])
        losses = [row["train_loss"] for rows in found.values() for row in rows]
        assert losses == best.setdefault("losses", losses)
    # The large rate ends with one answer for all images, which the frequent class rewards.
    assert (best["top1"], best["mean_per_class"]) == (1.0, 0.001)


ONE_SLOT = ("--slots", 1, "--cpus-per-trial", 1)


@pytest.fixture(scope="module")
def swept(tmp):
    """A finalized sweep, one of its tasks by mean per-class accuracy; what the commands said."""
    folder, suite = tmp / "sweep", tmp / "both"
    write_task(suite / "skewed", counts=SKEWED, noise=150)
    write_task(suite / "even")
    (suite / "suite.yaml").write_text(
        "metrics: {skewed: mean_per_class, even: mean_per_class}\n", encoding="utf-8"
    )
    said = run(
        *("sweep", suite, "--backbone", "vit_quickstart", "--method", "linear", "--trials", 2),
        *("--metric", "even=top1", "--pruner", "none", "--epochs", 2, *ONE_SLOT),
        *("--out", folder),
        tmp=tmp,
    )
    protocol = ("--finalists", 2, "--folds", 2, "--seeds", "42,44")
    return folder, said, run("finalize", folder, *protocol, *ONE_SLOT, tmp=tmp)


@pytest.mark.ray
@pytest.mark.slow
def test_every_table_file_and_page_of_a_sweep_names_the_metric(swept, tmp):
    folder, said, tested = swept
    assert "skewed: 3 classes" in said and "measured in mean per-class accuracy" in said
    assert "% mean per-class (the best" in said and "even.linear #0 complete" in said
    for row in pq.read_table(folder / "results.parquet").to_pylist():
        images, right = (np.array(row[f"val_{kind}_by_class"]) for kind in ("images", "correct"))
        if row["task"] == "skewed":
            assert row["metric"] == "mean_per_class"
            assert row["val_accuracy"] == pytest.approx((right / images).mean())
            assert row["val_majority_share"] == pytest.approx(1 / 3)
        else:
            assert (row["metric"], row["val_effective_images"]) == ("top1", None)
            assert row["val_accuracy"] == right.sum() / images.sum()
    rows = json.loads(run("status", folder, "--json", tmp=tmp))
    assert [(row["task"], row["metric"]) for row in rows] == [
        ("even", "top1"),
        ("skewed", "mean_per_class"),
    ]
    even, skewed = read_final_results(folder)
    assert (even.metric, skewed.metric) == ("top1", "mean_per_class")
    assert skewed.test_majority_share == pytest.approx(1 / 3)
    right = np.array(skewed.test_correct_by_class[42]) / np.array(skewed.test_images_by_class)
    assert skewed.test_accuracies[42] == pytest.approx(right.mean())
    assert "skewed.linear seed 42: test" in tested and "% mean per-class" in tested
    report = run("report", folder, "--format", "md", tmp=tmp)
    assert "skewed (mean\\_per\\_class)" in report and "Validation score, %" in report
    assert "A mean over tasks is over different metrics" in " ".join(report.split())


@pytest.mark.ray
@pytest.mark.mlflow
@pytest.mark.slow
def test_mlflow_shows_each_score_under_its_own_name(swept, tmp):
    folder, *_ = swept
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
    for found in runs:
        plain = found.data.tags["metric"] == "top1"
        assert plain == (found.data.tags["task"] == "even")
        names = {name for name in found.data.metrics if "accuracy" in name}
        assert names and all("mean_per_class" not in name for name in names) == plain
    assert "0 of these checks found something" in run("doctor", folder, tmp=tmp)


@pytest.mark.ray
@pytest.mark.slow
def test_a_bundle_says_what_it_was_chosen_by_and_reaches_it_again(swept, tmp):
    folder, *_ = swept
    for stage in ("best", "final"):
        bundle = folder / stage / "skewed.yaml"
        assert read_bundle(bundle).metric == "mean_per_class"
        card = bundle.with_suffix(".md").read_text()
        assert "mean per-class accuracy on the 72" in card
        assert "mean_per_class_accuracy" in card and "gives 33.3 % mean per-class" in card
    again = json.loads(run("train", folder / "best" / "skewed.yaml", "--json", tmp=tmp))
    assert again["val_mean_per_class_accuracy"] == again["recorded"]


def test_sweeps_by_different_metrics_have_no_difference(tmp_path):
    plan = make_plan(num_trials=1)
    other = replace(plan, tasks=tuple(replace(t, metric="mean_per_class") for t in plan.tasks))
    reports = []
    for number, one in enumerate((plan, other)):
        record = Record(one, f"sqlite:///{tmp_path / f'{number}.db'}")
        record.ask("caltech101.vpt_deep")
        curve = [{"epoch": 1, "val_accuracy": 0.4 + number / 2}]
        record.complete("caltech101.vpt_deep", 0, curve=curve, facts={})
        reports.append(collect(one, record))
    comparison = compare(*reports)
    assert [pair.val for pair in comparison.pairs] == [None]
    assert any("Not by the same metric" in said for said in comparison_sentences(comparison))
    assert score_words(other) == "mean per-class accuracy" and notes_on_metrics(plan) == []
    tables = {table.title: table for table in result_tables(reports[1])}
    (val,) = (table for title, table in tables.items() if title.startswith("Validation mean per-"))
    assert val.title == "Validation mean per-class accuracy, %"
    assert not any("one image of" in note for note in val.notes)  # it depends on its class
