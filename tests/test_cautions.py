"""What is only the share of a class, or was trained to nonsense, is not shown without a word."""

from dataclasses import replace

import pytest
from plans import make_plan, make_record, run_trial

from orchestrator.plan.plan import TaskPlan, load_plan, plan_document, read_plan, save_plan
from orchestrator.record.record import TrialRecord
from orchestrator.report.cautions import cautions, loss_sentence, majority_sentence

STUDY = "caltech101.vpt_deep"


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> TrialRecord:
    plan = make_plan(num_trials=1)
    return run_trial(make_record(plan, tmp_path_factory.mktemp("one")), STUDY)


def task_with(num_val: int, majority: int | None) -> TaskPlan:
    return replace(make_plan().tasks[0], num_val=num_val, val_majority=majority, num_classes=2)


@pytest.mark.parametrize(
    ("accuracy", "num_val", "majority", "told"),
    [
        (20 / 21, 21, 20, "is not told apart from that"),
        (1.0, 21, 20, "is not told apart from that"),
        (0.5, 200, 100, "is not told apart from that"),
        (0.56, 200, 100, "is not told apart from that"),
        (0.5, 200, 190, "is worse than that"),
        (0.6, 200, 100, None),
        (0.98, 1000, 952, None),
        (0.1, 200, None, None),
    ],
)
def test_the_share_of_the_most_frequent_class_is_no_result(
    trial, accuracy, num_val, majority, told
):
    best = replace(trial, val_accuracy=accuracy)
    sentence = majority_sentence(best, task_with(num_val, majority))
    assert (sentence is None) == (told is None)
    if sentence and told:
        assert told in sentence
        assert sentence.startswith(
            f"{100 * (majority or 0) / num_val:.1f} % is what always answering the most frequent "
            f"class gives ({majority} of {num_val} validation images)"
        )
        assert f"#0 with {100 * accuracy:.1f} %" in sentence


@pytest.mark.parametrize(
    ("losses", "num_classes", "told"),
    [
        ([18.8, 9000.0, 25_000.0], 397, True),
        ([30_000.0, 25_000.0], 397, True),  # fell from worse
        ([25_000.0], 397, True),
        ([10.2, 699.2], 8, True),
        ([18.8, 60.0], 10, True),  # went up
        ([8.5, 8.2], 10, False),  # a head that begins far off and is trained too little
        ([18.8], 2, False),
        ([9.0, 12.0], 10, False),
        ([2.3, 2.4], 10, False),  # at chance
        ([11.8, 0.5], 10, False),
        ([], 10, False),
    ],
)
def test_a_loss_far_worse_than_guessing_is_told(trial, losses, num_classes, told):
    curve = [{"epoch": n, "train_loss": loss} for n, loss in enumerate(losses, start=1)]
    sentence = loss_sentence(replace(trial, curve=curve), num_classes)
    assert (sentence is not None) == told
    if sentence:
        assert f"a training loss of {losses[-1]:,.0f}" in sentence


def test_of_a_study_in_order_nothing_is_said(trial):
    assert cautions(task_with(200, 30), [replace(trial, val_accuracy=0.7)]) == []


def test_the_best_of_the_study_is_what_is_looked_at(trial):
    weak, best = replace(trial, val_accuracy=0.5), replace(trial, val_accuracy=0.9, number=1)
    (told,) = cautions(task_with(200, 190), [weak, best])
    assert "#1 with 90.0 %" in told


def test_a_plan_keeps_the_most_frequent_class_and_an_older_one_is_read_without(tmp_path):
    plan = make_plan()
    told = replace(
        plan.tasks[0], val_majority=120, class_names=("no", "1e-4", "a: b"), num_classes=3
    )
    plan = replace(plan, tasks=(told,))
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    document = plan_document(plan)
    for name in ("val_majority", "class_names"):
        del document["tasks"][0][name]
    older = read_plan(document, source="older").tasks[0]
    assert (older.val_majority_share, older.class_names) == (None, ())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val_majority": 201}, "caltech101: val_majority 201 is more than num_val 200"),
        ({"val_majority": "many"}, "val_majority"),
        ({"class_names": ["a"]}, "caltech101: 1 class_names for 10 classes"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changed, message):
    document = plan_document(make_plan())
    document["tasks"][0] |= changed
    with pytest.raises(ValueError, match=message):
        read_plan(document, source="sweep.yaml")
