"""A sweep may begin with what did best in older ones, on their nearest tasks first."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import make_plan

from orchestrator import Sweep
from orchestrator.api.plan_again import told_again
from orchestrator.api.sweep_file import with_file
from orchestrator.api.warm_start import older_studies
from orchestrator.plan.plan import StudyPlan, TaskPlan, load_plan, save_plan
from orchestrator.plan.space import SearchSpace
from orchestrator.plan.start_points import FROM_SPACE, StartPoint
from orchestrator.plan.warm_start import (
    MOST,
    OlderStudy,
    OlderTrial,
    alike,
    drawn_in,
    nearness,
    warm_started,
)
from orchestrator.record.database import STORAGE_FILE
from orchestrator.record.record import open_record
from orchestrator.record.stored_plan import store_plan
from orchestrator.report.study_section import study_section

PLAN = make_plan(spaces=("vpt_deep",))
SPACE = PLAN.parsed_spaces["vpt_deep"]
BASE: dict[str, Any] = {
    **SPACE.fixed, "num_tokens": 10, "optimizer": "adamw", "lr": 0.1,
}  # fmt: skip


def task(name: str = "photos", **others: Any) -> TaskPlan:
    return replace(PLAN.tasks[0], **{"name": name, "fingerprint": f"of {name}", **others})


def older(of: TaskPlan, *trials: dict[str, Any], sweep: str = "old", **others: Any) -> OlderStudy:
    """A study whose best trials these are."""
    best = [
        OlderTrial(number=7 + rank, config={**BASE, **one}, val_accuracy=0.9 - rank / 10)
        for rank, one in enumerate(trials)
    ]
    told = {"method": "vpt", "backbone": PLAN.backbone, "best": best, **others}
    return OlderStudy(sweep=sweep, name=f"{of.name}.vpt_deep", task=of, **told)


def started(
    olders: Sequence[OlderStudy],
    *,
    of: TaskPlan | None = None,
    space: SearchSpace = SPACE,
    num_trials: int = 30,
    own: Sequence[StartPoint] = (),
) -> tuple[list[StartPoint], list[str]]:
    """The start points of one study, and what is said of them."""
    of = of or task()
    study = StudyPlan(
        task=of.name, space=space.name, num_trials=num_trials, start_points=tuple(own)
    )
    said: list[str] = []
    (begun,) = warm_started(
        [study],
        olders,
        tasks=[of],
        spaces=[space],
        backbone=PLAN.backbone,
        say=said.append,
    )
    return list(begun.start_points), said


def rates(points: Sequence[StartPoint]) -> list[Any]:
    return [point.config["lr"] for point in points]


def test_the_same_images_are_nearest_then_the_same_group_then_the_sizes():
    new = task(num_classes=10, num_train=1000)
    others = [
        task("the same", fingerprint=new.fingerprint, group="other", num_classes=99),
        task("equal", num_train=1000),
        task("twice the images", num_train=2000),
        task("half the classes, a third of the images", num_classes=5, num_train=333),
        task("another group", group="other", num_train=1000),
    ]
    assert sorted(reversed(others), key=lambda one: nearness(new, one)) == others


def test_the_best_of_the_nearest_come_in_turn_and_nearly_equal_ones_count_once():
    near, far = task("near"), task("far", group="other")
    points, said = started(
        [older(far, {"lr": 0.5}, {"lr": 0.01}), older(near, {"lr": 1.0}, {"lr": 1.02}, {"lr": 5.0})]
    )
    assert rates(points) == [1.0, 0.5, 0.01]
    assert len(points) == MOST
    origins = [
        "near.vpt_deep #7 of sweep old, val 90.0 %",
        "far.vpt_deep #7 of sweep old, val 90.0 %",
        "far.vpt_deep #8 of sweep old, val 80.0 %",
    ]
    assert [point.origin for point in points] == origins
    assert said == [f"photos.vpt_deep starts with {'; '.join(origins)}"]


@pytest.mark.parametrize(("num_trials", "number"), [(2, 0), (3, 1), (8, 2), (9, 3), (1000, 3)])
def test_a_third_of_the_trials_at_most_begin_elsewhere(num_trials: int, number: int):
    olders = [older(task(), *({"lr": rate} for rate in (0.01, 0.1, 1.0, 10.0)))]
    points, said = started(olders, num_trials=num_trials)
    assert len(points) == number
    if not number:
        assert said == [
            "photos.vpt_deep starts with nothing of older sweeps: 2 trials are too few to begin "
            "elsewhere"
        ]


def test_those_of_the_space_go_first_and_are_not_tried_twice():
    own = StartPoint(
        config={n: BASE[n] for n in ("num_tokens", "optimizer", "lr")}, origin=FROM_SPACE
    )
    points, _ = started([older(task(), {}, {"lr": 1.0})], own=[own])
    assert points[0] == own and rates(points) == [0.1, 1.0]


def test_those_of_the_portfolio_go_behind_as_far_as_there_is_room():
    portfolio = [
        StartPoint(config={**WITHOUT_RATE, "lr": rate}, origin="the portfolio")
        for rate in (1.01, 0.01, 0.5)
    ]
    points, _ = started([older(task(), {"lr": 1.0})], own=portfolio, num_trials=8)
    assert rates(points) == [1.0, 0.01]


WITHOUT_RATE = {"num_tokens": 10, "optimizer": "adamw"}


def space_with(**changes: Any) -> SearchSpace:
    """VPT's space with other lines, or without some (None), or with fixed values."""
    document = PLAN.spaces["vpt_deep"]
    search = {**document["search"], **changes}
    fixed = {n: line for n, line in search.items() if not isinstance(line, dict | None)}
    return SearchSpace.of(
        {
            **document,
            "fixed": {**document["fixed"], **fixed},
            "search": {name: line for name, line in search.items() if isinstance(line, dict)},
        },
        name="vpt_deep",
    )


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({}, {"num_tokens": 10, "optimizer": "adamw", "lr": 0.1}),
        ({"epochs": 99}, {"num_tokens": 10, "optimizer": "adamw", "lr": 0.1}),
        ({"num_tokens": 10}, {"optimizer": "adamw", "lr": 0.1}),
        ({"num_tokens": 5}, None),
        ({"num_tokens": {"choices": [5, 50]}}, None),
        ({"lr": {"low": 0.2, "high": 1.0}}, None),
        ({"deep": False}, None),
        ({"optimizer": None, "momentum": None}, None),  # which is SGD then
        (
            {"weight_decay": {"choices": [0.01, 0.25]}},  # 0 ran
            None,
        ),
        (
            {"dropout": {"low": 0.0, "high": 0.5}},  # 0 ran
            {"num_tokens": 10, "optimizer": "adamw", "lr": 0.1, "dropout": 0.0},
        ),
    ],
)
def test_a_configuration_is_taken_as_it_ran_or_not_at_all(changes, drawn):
    space = space_with(**changes)
    assert drawn_in(space, BASE) == drawn
    points, said = started([older(task(), {})], space=space)
    assert [point.config for point in points] == ([drawn] if drawn else [])
    if not drawn:
        assert said == [
            "photos.vpt_deep starts with nothing of older sweeps: what did best there is not among "
            "what space vpt_deep searches",
            "space vpt_deep: left out 1 configuration of older sweeps that it cannot draw",
        ]


def test_values_that_are_close_on_the_scale_of_their_range_are_alike():
    assert alike(SPACE, {"lr": 0.10, "num_tokens": 5}, {"lr": 0.12, "num_tokens": 5})
    assert not alike(SPACE, {"lr": 0.10}, {"lr": 0.20})
    assert not alike(SPACE, {"num_tokens": 5}, {"num_tokens": 10})
    assert not alike(SPACE, {"lr": 0.10}, {"lr": 0.10, "momentum": 0.9})


def test_what_was_otherwise_there_is_said():
    bigger = replace(PLAN.backbone, name="vit_base_patch16_224")
    tuned = replace(PLAN.backbone, weights_sha256="cd" * 32)
    by_class = task("faces", metric="mean_per_class")
    for other, words in (
        (older(by_class, {}), "val 90.0 % mean per-class"),
        (older(task(), {"epochs": 30}), "val 90.0 %, 30 epochs"),
        (older(task(), {}, backbone=bigger), "val 90.0 %, backbone vit_base_patch16_224"),
        (older(task(), {}, backbone=tuned), "val 90.0 %, other weights"),
    ):
        ((point,), _) = started([other])
        assert point.origin.endswith(f"#7 of sweep old, {words}")


def test_another_method_or_nothing_complete_is_said_to_be_why():
    for other, why in (
        (older(task(), {}, method="linear"), "no older study is of method vpt"),
        (older(task()), "no older trial of its method is complete"),
    ):
        points, said = started([other])
        assert not points
        assert said == [f"photos.vpt_deep starts with nothing of older sweeps: {why}"]


def test_of_many_studies_one_line_says_it():
    tasks = [task(f"task{number}") for number in range(12)]
    said: list[str] = []
    warm_started(
        [
            StudyPlan(task=one.name, space="vpt_deep", num_trials=2 if one is tasks[0] else 6)
            for one in tasks
        ],
        [older(task(), {}, {"lr": 1.0}), older(task("x"), {}, sweep="older")],
        tasks=tasks,
        spaces=[SPACE],
        backbone=PLAN.backbone,
        say=said.append,
    )
    assert said == [
        "11 of 12 studies start with 22 configurations of old, older",
        "1 study with nothing of them: 2 trials are too few to begin elsewhere",
    ]


def run(folder: Path, storage: str | None = None, *, accuracies: Sequence[float] = ()) -> None:
    """A sweep of one study with complete trials, as the record has them."""
    plan = make_plan(name=folder.name, num_trials=9)
    folder.mkdir(parents=True, exist_ok=True)
    if storage is None:
        save_plan(plan, folder)
    record = open_record(plan, folder, storage)
    store_plan(plan, record)
    for accuracy in accuracies:
        trial = record.ask(STUDY)
        rows = [{"epoch": 1, "val_accuracy": accuracy}]
        record.report(STUDY, trial.number, rows, finished=True)
        record.complete(STUDY, trial.number, curve=rows, facts={})
    record.ask(STUDY)  # still running


STUDY = "caltech101.vpt_deep"


def test_older_sweeps_are_read_from_their_folder_or_the_storage(tmp_path: Path):
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    run(tmp_path / "in_folder", accuracies=[0.2, 0.6, 0.4])
    run(tmp_path / "in_storage", shared, accuracies=[0.3])
    names = [str(tmp_path / "in_folder"), "in_storage"]
    found = older_studies(names, shared, open_sweep=Sweep)
    assert [(one.sweep, one.name) for one in found] == [("in_folder", STUDY), ("in_storage", STUDY)]
    assert [[trial.number for trial in one.best] for one in found] == [[1, 2, 0], [0]]
    assert found[0].best[0].val_accuracy == 0.6


def broken(folder: Path) -> None:
    (folder / "sweep.yaml").write_text("format: [")


def newer(folder: Path) -> None:
    path = folder / "sweep.yaml"
    path.write_text(path.read_text().replace("format: 2", "format: 99"))


def no_database(folder: Path) -> None:
    (folder / STORAGE_FILE).write_bytes(b"no database" * 100)


def never_run(folder: Path) -> None:
    (folder / STORAGE_FILE).unlink()


def damaged_trial(folder: Path) -> None:
    with sqlite3.connect(folder / STORAGE_FILE) as connection:
        connection.execute("UPDATE trial_values SET value = 7")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken, "sweep.yaml:"),
        (newer, "was written in format 99 by a later version"),
        (no_database, "not a database"),
        (never_run, "has no studies.db: it was not run"),
        (damaged_trial, "its accuracy: expected a number from 0 to 1, found 7.0"),
    ],
)
def test_an_older_sweep_that_cannot_be_read_is_named_in_one_line(damage, words, tmp_path: Path):
    folder = tmp_path / "old"
    run(folder, accuracies=[0.5])
    damage(folder)
    with pytest.raises(ValueError, match=words) as error:
        older_studies([str(folder)], None, open_sweep=Sweep)
    assert str(error.value).startswith(f"--warm-start {folder}: ")
    assert "\n" not in str(error.value)
    assert str(error.value).count(f"{folder}: ") == 1


def test_no_sweep_and_no_name_of_the_storage_are_refused_and_nothing_is_written(tmp_path: Path):
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    run(tmp_path / "in_storage", shared, accuracies=[0.3])
    never = tmp_path / "planned"
    never.mkdir()
    save_plan(make_plan(name="planned"), never)
    for name, storage, words in (
        (str(tmp_path / "none"), None, "no such sweep folder"),
        ("in_storge", shared, "did you mean 'in_storage'"),
        (str(never), shared, "has no studies in sqlite"),
        (str(never), None, "has no studies.db"),
    ):
        with pytest.raises(ValueError, match=words):
            older_studies([name], storage, open_sweep=Sweep)
    assert {path.name for path in never.iterdir()} == {"sweep.yaml"}


def test_a_file_names_older_sweeps_from_where_it_is(tmp_path: Path):
    (tmp_path / "sweeps/old").mkdir(parents=True)
    path = tmp_path / "mine.yaml"
    path.write_text("suite: quickstart\nwarm-start: [sweeps/old, by_name]\n")
    told = with_file({"suite": path})["warm_start"]
    assert told == [str(tmp_path / "sweeps/old"), "by_name"]


def test_a_search_that_is_planned_again_says_that_it_began_elsewhere():
    (study,) = PLAN.studies
    points = (StartPoint(config={"lr": 1.0}, origin="a.vpt #3 of sweep old, val 91.5 %"),)
    then = replace(PLAN, studies=(replace(study, start_points=points),))
    assert any("--warm-start" in line for line in told_again(then, PLAN))
    assert not any("--warm-start" in line for line in told_again(then, then))


@pytest.mark.slow
def test_a_sweep_begins_with_the_winner_of_an_older_one_and_says_so(tmp_path, capsys):
    asked: dict[str, Any] = {"methods": ["linear"], "epochs": 2, "trials": 3, "pruner": "none"}
    first = Sweep.plan("quickstart", tasks=["digits"], out=tmp_path / "first", **asked)
    first.run(engine="local")
    winner = first.best("digits")
    assert winner is not None
    capsys.readouterr()
    second = Sweep.plan(
        "quickstart",
        tasks=["generated_textures"],
        warm_start=[tmp_path / "first"],
        out=tmp_path / "second",
        **asked,
    )
    percent = f"{100 * (winner.val_accuracy or 0):.1f}"
    origin = f"digits.linear #{winner.number} of sweep first, val {percent} %"
    said = capsys.readouterr()
    assert f"generated_textures.linear starts with {origin}\n" in said.out + said.err
    second.save()
    assert load_plan(tmp_path / "second").studies == second.frozen_plan.studies
    # A driver that was killed while it drew the first trial draws it again.
    again = Sweep.open(tmp_path / "second")
    again.record.optuna_study("generated_textures.linear").ask()
    again.run(engine="local")
    space = again.frozen_plan.parsed_spaces["linear"]
    begun, *others = again.trials()
    assert (begun.origin, len(others)) == (origin, 2)
    assert space.searched(begun.config) == space.searched(winner.config)
    assert list(again.table()["origin"].fillna("")) == [origin, "", ""]
    (row,) = json.loads(json.dumps(again.status_rows()))
    best = again.best()
    assert best is not None and row["best_origin"] == best.origin
    (study,) = again.report().found.studies
    section = study_section(study, by_class=False)
    cells = [row.cells[-1].text for row in section.trials.rows]
    assert (section.trials.columns[-1], sorted(cells)) == (
        "from",
        sorted([origin, "sampler", "sampler"]),
    )
