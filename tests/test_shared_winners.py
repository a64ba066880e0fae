"""Within a sweep a study tries what did best on other tasks, and all of it can be derived again."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import killed_at
from optuna.trial import FrozenTrial, TrialState, create_trial
from plans import SPACES, make_plan
from suites import write_suite

from orchestrator.api.plan_again import keywords_of_plan
from orchestrator.data.suites import load_suite
from orchestrator.plan.asked import look_at
from orchestrator.plan.described import plan_lines
from orchestrator.plan.nearness import all_apart, apart
from orchestrator.plan.plan import StudyPlan, SweepPlan, plan_document, read_plan
from orchestrator.plan.request import SweepRequest
from orchestrator.plan.shared_winners import (
    EVERY,
    refuse_without_room,
    shares_winners,
    standings,
    winner_of,
)
from orchestrator.plan.space import SearchSpace
from orchestrator.plan.start_points import FROM_SPACE, StartPoint
from orchestrator.record.database import IN_MEMORY
from orchestrator.record.others import SAW
from orchestrator.record.record import Record
from orchestrator.record.replay import Difference, replayed

TASKS = ("caltech101", "dtd", "svhn")
SPACE = SearchSpace.of(SPACES["vpt_deep"], name="vpt_deep")
OF_ALL_KINDS = SearchSpace.of(
    {
        **SPACES["vpt_deep"],
        "search": {
            **SPACES["vpt_deep"]["search"],
            "blocks": {"choices": [None, [0, 1], [2, 5], [8, 11]]},
            "batch_size": {"low": 16, "high": 64, "step": 16},
        },
    },
    name="of_all_kinds",
)
EPOCHS = 4


def sharing(num_trials: int = 9, pruner: str = "successive_halving", **options: Any) -> SweepPlan:
    plan = make_plan(
        tasks=TASKS,
        spaces=("linear", "vpt_deep"),
        num_trials=num_trials,
        pruner=pruner,
        first_rung_epochs=1,
        **options,
    )
    return replace(plan, share_winners=True)


def score(study: str, config: Mapping[str, Any], epoch: int) -> float:
    """The best rate is near 0.1 on all tasks, and on each a little beside it."""
    off = np.log10(config["lr"]) + 1 + 0.3 * TASKS.index(study.split(".")[0])
    return float(np.exp(-(off**2)) * epoch / EPOCHS)


class Search:
    """As a driver with so many slots, whose workers answer in an order of chance."""

    def __init__(self, plan: SweepPlan, url: str = IN_MEMORY, *, slots: int = 1, seed: int = 0):
        self.plan, self.url, self.slots = plan, url, slots
        self.chance = Random(seed)
        self.resume()

    def resume(self) -> None:
        self.record = Record(self.plan, self.url)
        self.running = {(one.study, one.number): one for one in self.record.interrupted()}

    def step(self) -> bool:
        asked = {study.name: self.record.num_asked(study.name) for study in self.plan.studies}
        study = min(asked, key=asked.__getitem__)
        if asked[study] < self.plan.study(study).num_trials and len(self.running) < self.slots:
            config = self.record.ask(study)
            self.running[config.study, config.number] = config
            return True
        if not self.running:
            return False
        trial = self.chance.choice(list(self.running))
        config = self.running[trial]
        rows = [
            {"epoch": epoch, "val_accuracy": score(config.study, config.config, epoch)}
            for epoch in range(1, EPOCHS + 1)
        ]
        stop = self.record.report(*trial, rows, finished=True)
        if stop is None:
            self.record.complete(*trial, curve=rows, facts={})
        else:
            self.record.prune(*trial, curve=rows[:stop], facts={})
        del self.running[trial]
        return True

    def run(self) -> "Search":
        while self.step():
            pass
        return self

    def told(self) -> list[tuple[Any, ...]]:
        return [
            (t.study, t.number, t.state, dict(t.config), t.origin, t.val_accuracy)
            for t in self.record.all_trials()
        ]


def differences(record: Record) -> list[Difference]:
    return [difference for study in replayed(record) for difference in study.differences]


# What is recommended


def ended(
    lr: float, value: float | None, *, tokens: int = 5, number: int = 0, epoch: int = 4
) -> FrozenTrial:
    """A complete trial; before the last epoch a pruned one, without a value a failed one."""
    config = {"num_tokens": tokens, "optimizer": "adamw", "lr": lr}
    distributions = {d.name: d.distribution for d in SPACE.dimensions if d.name in config}
    drawn = {"params": config, "distributions": distributions}
    if value is None:
        trial = create_trial(state=TrialState.FAIL, **drawn)
    elif epoch < EPOCHS:
        reported = {epoch: value}
        trial = create_trial(state=TrialState.PRUNED, intermediate_values=reported, **drawn)
    else:
        trial = create_trial(value=value, **drawn)
    trial.number = number
    return trial


def study_of(*values: tuple[float, float | None]) -> list[FrozenTrial]:
    return [ended(lr, value, number=number) for number, (lr, value) in enumerate(values)]


def recommended(own: Sequence[FrozenTrial], **others: Sequence[FrozenTrial]) -> str | None:
    winner = winner_of(SPACE, own, others)
    return winner and winner.origin.removeprefix("shared: ")


LOW = [(0.002, 0.9), (0.02, 0.6), (0.2, 0.4), (2.0, 0.1)]
"""Low rates do best."""
HIGH = [(rate, 1 - value) for rate, value in LOW]


def test_the_best_of_another_task_is_recommended():
    assert recommended([], a=study_of(*LOW)) == "a #0"


@pytest.mark.parametrize(("own", "expected"), [(LOW[1:], "like #0"), (HIGH[:-1], "unlike #3")])
def test_the_task_that_orders_the_trials_of_this_one_alike_is_heard(own, expected: str):
    other = {"like": study_of(*LOW), "unlike": study_of(*HIGH)}
    assert recommended(study_of(*own), **other) == expected


def test_with_nothing_to_compare_what_does_well_on_most_tasks_is_recommended():
    others = {"a": study_of(*HIGH), "b": study_of(*LOW), "c": study_of(*LOW)}
    assert recommended([], **others) == "b #0"


@pytest.mark.parametrize(
    ("own", "other"),
    [
        pytest.param([], [(0.1, 0.9)], id="one trial says nothing"),
        pytest.param([], [(0.1, None), (0.2, None)], id="none is complete"),
        pytest.param([], [(0.1, 0.5), (1.0, 0.5)], id="none is better"),
        pytest.param([(0.002, None)], LOW[:2], id="the winner was tried"),
        pytest.param([(0.0021, None)], LOW[:2], id="nearly the winner was tried"),
        pytest.param([*HIGH[1:], (0.01, 0.2), (0.05, 0.3)], LOW, id="it orders them as chance"),
    ],
)
def test_nothing_is_recommended_where(own, other):
    assert recommended(study_of(*own), other=study_of(*other)) is None


def test_what_runs_here_is_not_tried_again():
    running = study_of(LOW[0])[0]
    running.state, running.values = TrialState.RUNNING, None
    assert recommended([running], a=study_of(*LOW)) == "a #1"


def test_complete_trials_stand_before_pruned_ones_and_those_before_failed_ones():
    trials = [
        ended(0.1, 0.2),
        ended(0.1, 0.9, epoch=1),
        ended(0.1, None),
        ended(0.1, 0.5, epoch=2),
        ended(0.1, 0.3),
        ended(0.1, 0.2),
    ]
    assert standings(trials) == pytest.approx([0.7, 0.2, 0.0, 0.4, 1.0, 0.7])


@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, None]), min_size=2, max_size=20))
def test_standings_have_the_mean_of_a_half_and_a_better_value_never_stands_lower(values):
    found = standings([ended(0.1, value) for value in values])
    assert found.mean() == pytest.approx(0.5) and found.min() >= 0 and found.max() <= 1
    for one, first in zip(values, found, strict=True):
        for other, second in zip(values, found, strict=True):
            assert ((one or 0) > (other or 0)) == (first > second)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.integers(0, 10**6))
@settings(deadline=None)
def test_distances_of_many_are_those_of_each(seeds: list[int], other: int):
    ones, others = [_drawn(seed) for seed in seeds], [_drawn(other), _drawn(other + 1)]
    found = all_apart(OF_ALL_KINDS, ones, others)
    for i, one in enumerate(ones):
        for j, two in enumerate(others):
            gaps = apart(OF_ALL_KINDS, one, two)
            expected = [gaps.get(dimension.name, 0.0) for dimension in OF_ALL_KINDS.dimensions]
            assert found[i, j] == pytest.approx(expected)


def _drawn(seed: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return OF_ALL_KINDS.searched(OF_ALL_KINDS.draw(study.ask()))


# When


@given(st.integers(1, 60), st.integers(0, 8), st.integers(0, 8))
def test_of_however_many_trials_at_most_a_third_come_from_elsewhere(
    num_trials: int, own: int, elsewhere: int
):
    points = [StartPoint(config={"lr": 0.1}, origin=FROM_SPACE)] * own
    points += [StartPoint(config={"lr": 0.1}, origin="portfolio")] * elsewhere
    study = StudyPlan(task="a", space="b", num_trials=9, start_points=tuple(points))
    shared = sum(shares_winners(study, number) for number in range(num_trials))
    assert shared + elsewhere <= max(elsewhere, num_trials // EVERY)
    assert not any(shares_winners(study, number) for number in range(own + elsewhere))
    if not points:
        assert shared == num_trials // EVERY


# The record


def test_winners_are_tried_and_say_where_they_come_from():
    record = Search(sharing()).run().record
    shared = [trial for trial in record.all_trials() if (trial.origin or "").startswith("shared")]
    assert len(shared) > len(record.plan.studies)
    for trial in shared:
        study, _, number = (trial.origin or "").removeprefix("shared: ").partition(" #")
        winner = record.trial(study, int(number))
        assert trial.number % EVERY == EVERY - 1
        assert winner.state == "complete" and winner.config == trial.config
        assert winner.study != trial.study and study.split(".")[1] == trial.study.split(".")[1]


def test_without_it_nothing_is_shared_and_nothing_more_is_stored():
    record = Search(replace(sharing(), share_winners=False)).run().record
    assert {trial.origin for trial in record.all_trials()} == {None}
    for study in record.plan.studies:
        stored = record.optuna_study(study.name)
        assert "share_winners" not in stored.user_attrs["plan"]
        assert not any(SAW in trial.user_attrs for trial in stored.get_trials())


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from(["tpe", "random"]))
def test_in_whatever_order_trials_answer_all_is_derived_again(seed: int, slots: int, sampler: str):
    search = Search(sharing(8, sampler=sampler), slots=slots, seed=seed)
    for _ in range(40):
        search.step()
    assert differences(search.record) == []  # also of a search that is in the middle
    assert differences(search.run().record) == []


@pytest.mark.parametrize(
    "point", ["before ask", "after ask", "half decision", "before tell", "half tell", "after tell"]
)
@pytest.mark.parametrize("slots", [1, 3])
def test_killed_and_resumed_it_is_derived_again_and_with_one_slot_as_undisturbed(
    point: str, slots: int
):
    search = killed_at(point, lambda: Search(sharing(), slots=slots, seed=1))
    assert differences(search.record) == []
    if slots == 1:
        assert search.told() == Search(sharing()).run().told()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The storage of a search that is over."""
    path = tmp_path_factory.mktemp("finished") / "studies.db"
    Search(sharing(6), f"sqlite:///{path}").run()
    return path


@pytest.fixture
def stored(finished: Path, tmp_path: Path) -> Callable[..., Record]:
    """Changes the first trial that is another's winner in a copy of it."""
    (tmp_path / "studies.db").write_bytes(finished.read_bytes())

    def change(statement: str, key: str, value: str = "") -> Record:
        trial = "SELECT min(trial_id) FROM trial_user_attributes WHERE value_json LIKE '%shared:%'"
        with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
            told = {"value": value, "key": key}
            done = connection.execute(f"{statement} AND trial_id = ({trial})", told)
            assert done.rowcount == 1
            connection.commit()
        return Record(sharing(6), f"sqlite:///{tmp_path / 'studies.db'}")

    return change


SET = "UPDATE trial_user_attributes SET value_json = :value WHERE key = :key"


def test_a_file_decides_as_memory_does(finished: Path):
    search = Search(sharing(6), f"sqlite:///{finished}")
    assert search.told() == Search(sharing(6)).run().told()
    assert differences(search.record) == []


def test_another_winner_is_found(stored):
    changed = "UPDATE trial_params SET param_value = 0.5 + :value WHERE param_name = :key"
    assert differences(stored(changed, "lr", "0"))[0].what == "lr"


def test_another_origin_is_found(stored):
    (found,) = differences(stored(SET, "origin", json.dumps("shared: nobody.linear #1")))
    assert (found.what, found.stored) == ("origin", "shared: nobody.linear #1")


def test_one_that_saw_nothing_of_others_is_found(stored):
    (found,) = differences(stored(SET, SAW, "{}"))
    assert found.derived != found.stored


@pytest.mark.parametrize(
    "value", ["[]", '{"caltech101.linear": "1"}', '{"caltech101.linear": 1.5}']
)
def test_what_it_saw_is_refused_where_it_is_no_numbers(stored, value: str):
    record = stored(SET, SAW, value)
    with pytest.raises(ValueError, match=f"{SAW}: expected studies with numbers"):
        replayed(record)


# The plan


def test_a_plan_keeps_it_and_one_without_has_no_word_of_it(tmp_path: Path):
    plan = sharing()
    assert read_plan(plan_document(plan), source="test").share_winners
    document = plan_document(replace(plan, share_winners=False))
    assert "share_winners" not in document
    assert not read_plan(document, source="test").share_winners


def test_it_is_said_before_the_sweep_starts_and_chosen_when_it_is_planned_again(tmp_path: Path):
    suite = load_suite(str(write_suite(tmp_path / "suite")))
    words = "every third trial: what did best on the other tasks"
    plan = sharing()
    assert any(words in line for line in plan_lines(plan, suite, slots="1 slot"))
    silent = replace(plan, share_winners=False)
    assert not any(words in line for line in plan_lines(silent, suite, slots="1 slot"))
    for one in (plan, silent):
        again = keywords_of_plan(plan_document(one), tmp_path / "sweep.yaml", {})
        assert again.get("share_winners", False) == one.share_winners


@pytest.mark.parametrize("then", [True, False])
def test_sharing_or_not_is_another_search(then: bool, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    Record(replace(sharing(), share_winners=then), url)
    with pytest.raises(ValueError, match=f"share_winners: was {then}, is {not then}"):
        Record(replace(sharing(), share_winners=not then), url)
    Record(replace(sharing(), share_winners=then), url)


def test_what_makes_no_sense_is_refused_at_planning(tmp_path: Path):
    suite = str(write_suite(tmp_path / "suite"))
    given: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "share_winners": True}
    tasks = look_at(SweepRequest(suite, **given), name="s", say=print).suite.tasks
    with pytest.raises(ValueError, match=r"--share-winners: there is one task.*--warm-start"):
        look_at(SweepRequest(suite, tasks=[tasks[0].name], **given), name="s", say=print)
    with pytest.raises(ValueError, match=r"--share-winners.*score alone.*leave out one"):
        also = ["minimize=trained_parameters"]
        look_at(SweepRequest(suite, also=also, **given), name="s", say=print)


def test_too_few_trials_to_share_are_refused():
    point = StartPoint(config={"lr": 0.1}, origin="portfolio")
    few = StudyPlan(task="a", space="b", num_trials=5, start_points=(point,))
    with pytest.raises(ValueError, match=r"5 trials of a study leave no room.*--trials 6 would do"):
        refuse_without_room([few])
    refuse_without_room([few, replace(few, num_trials=6)])
