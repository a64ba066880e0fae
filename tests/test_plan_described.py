"""What is said of a plan before anything starts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plans import make_plan

from orchestrator.data.vtab import OFFICIAL_TASKS
from orchestrator.plan.described import plan_lines
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.pruners.decisions import decisions
from orchestrator.plan.pruners.options import plan_pruner


@pytest.mark.parametrize(
    ("pruner", "options", "epochs", "trials", "told"),
    [
        ("successive_halving", {"first_rung_epochs": 3}, 20, 8, "after epochs 3, 6, 12 of 20"),
        ("successive_halving", {"first_rung_epochs": 10}, 20, 8, "after epoch 10 of 20"),
        ("median", {"first_rung_epochs": 3}, 20, 8, "after every epoch from 3 on, of 20"),
        (
            "successive_halving",
            {"first_rung_epochs": 5},
            2,
            8,
            "never stop a trial: it decides after epoch 5 at the earliest, and a trial has 2",
        ),
        ("successive_halving", {"first_rung_epochs": 5}, 5, 8, "never stop a trial"),
        (
            "successive_halving",
            {"first_rung_epochs": 3},
            20,
            1,
            "never stop a trial: it compares with 1 earlier trial, and a study has 1 trial",
        ),
        ("median", {"first_rung_epochs": 3}, 20, 5, "compares with 5 earlier trials"),
        ("patient", {"first_rung_epochs": 3, "wrapped": "none"}, 20, 1, "from 3 on"),
        ("none", {}, 20, 8, "every trial runs to its last epoch"),
    ],
)
def test_when_a_pruner_decides_or_why_it_never_can(pruner, options, epochs, trials, told):
    made = plan_pruner(pruner, options)
    assert told in decisions(made, epochs=epochs, num_trials=trials, eval_every=1)


@pytest.mark.parametrize(
    ("pruner", "first", "epochs", "eval_every", "told"),
    [
        ("median", 3, 40, 10, "after every 10 epochs from 10 on, of 40"),
        ("median", 3, 20, 10, "after epoch 10 of 20"),
        ("median", 3, 10, 10, "never stop a trial: it decides after epoch 3"),
        # Its rungs are validated whatever is asked for.
        ("successive_halving", 3, 20, 10, "after epochs 3, 6, 12 of 20"),
        ("successive_halving", 15_000, 20_000, 1, "after epoch 15000 of 20000"),
    ],
)
def test_only_where_a_trial_is_validated_can_it_be_stopped(pruner, first, epochs, eval_every, told):
    made = plan_pruner(pruner, {"first_rung_epochs": first})
    assert told in decisions(made, epochs=epochs, num_trials=8, eval_every=eval_every)


def suite_of(plan: SweepPlan, **images: list[int]) -> Any:
    """Its tasks with so many images in each split; a split without a number is absent."""
    tasks = [
        SimpleNamespace(
            name=task.name,
            num_classes=task.num_classes + at,
            split_rule="",
            splits={name: range(sizes[at]) for name, sizes in images.items() if sizes[at]},
        )
        for at, task in enumerate(plan.tasks)
    ]
    return SimpleNamespace(name="vtab", tasks=tuple(tasks))


def test_a_small_plan_is_told_task_by_task():
    plan = make_plan(spaces=("linear", "vpt_deep"), pruner="successive_halving")
    lines = plan_lines(plan, suite_of(plan, train=[800], val=[200]), slots="2 slots")
    told = "\n".join(lines)
    assert lines[0] == "plan: 2 studies, 8 trials on 2 slots"
    for expected in (
        "1 task x 2 search spaces (linear, vpt_deep); 4 trials each",
        "sampler random, seed 0",
        "successive_halving: may stop a trial after epoch 2 of 4",
        "caltech101: 10 classes; images: 800 train, 200 val, no test",
        "top1 (accuracy), on val",
        "112 x 112 pixels",
        "normalized by mean 0.5 0.5 0.5",
        "fp32, fused attention",
    ):
        assert expected in " ".join(told.split()), told


def test_what_differs_between_search_spaces_is_told_of_each():
    plan = make_plan(spaces=("linear", "vpt_deep"), pruner="successive_halving")
    studies = tuple(
        replace(study, num_trials=1 if study.space == "linear" else 4) for study in plan.studies
    )
    told = plan_lines(
        replace(plan, studies=studies), suite_of(plan, train=[800], val=[200]), slots="1 slot"
    )
    text = " ".join("\n".join(told).split())
    assert "1 trial each (linear); 4 trials each (vpt_deep)" in text
    assert "after epoch 2 of 4 (vpt_deep)" in text
    assert "a study has 1 trial (linear)" in text


def test_many_studies_are_told_in_ranges_and_no_line_is_wider_than_a_terminal(tmp_path: Path):
    names = tuple(OFFICIAL_TASKS)
    plan = make_plan(tasks=names, spaces=("linear", "vpt_deep"), pruner="median")
    train, test = [800 + at for at in range(len(names))], [0, *[1000] * (len(names) - 1)]
    lines = plan_lines(
        plan, suite_of(plan, train=train, val=[200] * len(names), test=test), slots="2 slots"
    )
    assert len(lines) < 20
    assert max(map(len, lines)) <= 80
    text = " ".join("\n".join(lines).split())
    assert f"{len(names)} of vtab: 10 to 28 classes; images: 800 to 818 train, 200 val" in text
    assert "1,000 test (none in 1 of them)" in text
