"""A study begins with the configurations that its plan names, and says where each comes from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import make_plan
from tiny_backbones import tiny_vit

from orchestrator.plan.plan import SweepPlan, load_plan, plan_document, read_plan, save_plan
from orchestrator.plan.prepare import fit_to_backbone
from orchestrator.plan.space import SearchSpace
from orchestrator.plan.start_points import FROM_SPACE, StartPoint, start_points_of
from orchestrator.record.record import Record

STUDY = "caltech101.vpt_deep"
WHOLE = {"num_tokens": 10, "optimizer": "sgd", "lr": 1, "momentum": 0.9}
PART = {"num_tokens": 5, "lr": 0.25}


def starting(*configs: dict[str, Any]) -> SweepPlan:
    plan = make_plan(num_trials=5)
    points = [StartPoint(config=one, origin=f"told {i}") for i, one in enumerate(configs)]
    (study,) = plan.studies
    return replace(plan, studies=(replace(study, start_points=tuple(points)),))


def test_the_first_trials_are_the_start_points_and_what_they_do_not_name_is_drawn(tmp_path: Path):
    record = Record(starting(WHOLE, PART), f"sqlite:///{tmp_path / 'studies.db'}")
    asked = [record.ask(STUDY) for _ in range(3)]
    assert asked[0].config.items() >= WHOLE.items()
    assert type(asked[0].config["lr"]) is float  # as when it is read from the storage again
    assert asked[1].config.items() >= PART.items()
    assert {"optimizer"} <= asked[1].config.keys() - PART.keys()
    assert [trial.origin for trial in record.trials(STUDY)] == ["told 0", "told 1", None]


def test_the_others_are_those_of_a_study_without_start_points(tmp_path: Path):
    found = []
    for plan in (starting(PART), starting()):
        record = Record(plan, f"sqlite:///{tmp_path / str(len(found))}.db")
        found.append([record.ask(STUDY).config for _ in range(4)])
    assert found[0][0] != found[1][0] and found[0][1:] == found[1][1:]


def test_a_trial_that_was_cut_off_starts_at_the_same(tmp_path: Path):
    record = Record(starting(WHOLE, PART), f"sqlite:///{tmp_path / 'studies.db'}")
    first = record.ask(STUDY)
    record.optuna_study(STUDY).ask()  # killed before a value was written
    again = Record(record.plan, record.storage_url)
    kept, cut = again.interrupted()
    assert kept == first
    assert cut.config.items() >= PART.items()
    assert again.trial(STUDY, 1).origin == "told 1"
    assert Record(record.plan, record.storage_url).interrupted() == [kept, cut]


def test_a_plan_keeps_them_and_one_without_has_no_word_of_them(tmp_path: Path):
    plan = starting(WHOLE, PART)
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path).studies == plan.studies
    assert "start_points" not in plan_document(starting())["studies"][0]


def test_other_start_points_are_another_search(tmp_path: Path):
    Record(starting(WHOLE), f"sqlite:///{tmp_path / 'studies.db'}")
    with pytest.raises(ValueError, match="start_points"):
        Record(starting(PART), f"sqlite:///{tmp_path / 'studies.db'}")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_tokens": 7}, "num_tokens: 7 is not among the values that are searched: 1, 5, 10"),
        ({"lr": 11.0}, "lr: 11.0 is not among the values that are searched: from 0.001 to 10"),
        ({"lr": "1.0"}, "lr: expected float, found '1.0'"),
        ({"num_tokens": 5.0}, "num_tokens: expected int, found 5.0"),
        ({"num_tokns": 5}, "unknown searched name 'num_tokns'; did you mean 'num_tokens'?"),
        ({"deep": True}, "deep: is held fixed at True, not searched"),
        (
            {"optimizer": "adamw", "momentum": 0.9},
            "momentum: is searched only where optimizer is 'sgd', found 'adamw'",
        ),
    ],
)
def test_one_that_no_trial_could_draw_is_refused_in_a_plan_and_in_a_space(config, words: str):
    plan = starting(WHOLE, config)
    with pytest.raises(ValueError) as error:
        read_plan(plan_document(plan), source="s.yaml")
    assert f"s.yaml: studies: {STUDY}: start_points: 1: {words}" in str(error.value)
    with pytest.raises(ValueError) as error:
        space_of(WHOLE, config)
    assert f"space mine: start: entry 2: {words}" in str(error.value)


@pytest.mark.parametrize("entries", [{"lr": 1.0}, "lr", [1.0], [{}], [PART, []]])
def test_what_is_no_list_of_configurations_is_refused(entries):
    document = {**make_plan().spaces["vpt_deep"], "start": entries}
    with pytest.raises(ValueError, match="space mine: start: expected a list of configurations"):
        SearchSpace.of(document, name="mine")


def space_of(*start: dict[str, Any]) -> SearchSpace:
    return SearchSpace.of({**make_plan().spaces["vpt_deep"], "start": [*start]}, name="mine")


def test_a_space_names_them_as_far_as_there_are_trials():
    points = start_points_of(space_of(WHOLE, PART), 1)
    assert points == (StartPoint(config=WHOLE, origin=FROM_SPACE),)
    assert len(start_points_of(space_of(WHOLE, PART), 9)) == 2


def without(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


@pytest.mark.parametrize(
    ("fixed", "left"),
    [
        ({"epochs": 7}, (WHOLE, PART)),
        ({"num_tokens": 1}, (without("num_tokens", WHOLE), {"lr": 0.25})),
        ({"lr": 0.5}, (without("lr", WHOLE), {"num_tokens": 5})),
        ({"lr": 0.5, "num_tokens": 5}, ({"optimizer": "sgd", "momentum": 0.9},)),
        ({"optimizer": "adamw"}, ({"num_tokens": 10, "lr": 1}, PART)),
    ],
)
def test_where_names_are_fixed_what_can_still_be_drawn_of_them_is_left(fixed, left):
    assert space_of(WHOLE, PART).with_fixed(fixed).start == left


def test_entries_that_become_the_same_are_one():
    space = space_of(PART, {**PART, "num_tokens": 1})
    assert space.with_fixed({"num_tokens": 50}).start == ({"lr": 0.25},)


def test_one_that_the_backbone_has_no_room_for_is_left_out_and_said():
    blocks = {"choices": [None, [0, 1], [8, 11]]}
    start = [{"blocks": [8, 11]}, {"blocks": [0, 1]}]
    space = SearchSpace.of(
        {"method": "vpt", "search": {"blocks": blocks}, "start": start}, name="mine"
    )
    assert [one["blocks"] for one in space.start] == ["8-11", "0-1"]
    said: list[str] = []
    fitted = fit_to_backbone(space, tiny_vit(), said.append)
    assert fitted.start == ({"blocks": "0-1"},)
    assert said[-1] == "space mine: left out 1 configuration to start with"
