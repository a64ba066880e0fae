"""What a search decided follows from its storage, in whatever order its trials answered."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import killed_at
from plans import make_plan
from typer.testing import CliRunner

from orchestrator.api.sweep import Sweep
from orchestrator.cli import app
from orchestrator.plan.plan import SweepPlan, save_plan
from orchestrator.plan.pruners.options import choices
from orchestrator.plan.samplers import SAMPLERS
from orchestrator.plan.start_points import StartPoint
from orchestrator.record.database import IN_MEMORY
from orchestrator.record.order import DRAWN, ENDED
from orchestrator.record.record import Record, open_record
from orchestrator.record.replay import Difference, replayed

EPOCHS = 9
NUM_SLOTS = 3
NUM_FILED = 7
"""Trials of each study that is written to a file, which takes longer than in memory."""


def searched(pruner: str, sampler: str = "tpe", num_trials: int = 16) -> SweepPlan:
    plan = make_plan(
        spaces=("linear", "vpt_deep"),
        num_trials=num_trials,
        epochs=EPOCHS,
        pruner=pruner,
        first_rung_epochs=1,
        sampler=sampler,
    )
    first, *others = plan.studies
    start = StartPoint(config={"lr": 0.5}, origin="a paper")
    return replace(plan, studies=(replace(first, start_points=(start,)), *others))


class Search:
    """Trials of several studies side by side, whose workers answer in an order of chance."""

    def __init__(self, plan: SweepPlan, url: str, seed: int) -> None:
        self.plan, self.url = plan, url
        self.chance = Random(seed)
        self.reached: dict[tuple[str, int], int] = {}
        self.resume()

    def resume(self) -> None:
        """As a new driver does, whose workers go on from a checkpoint or from the start."""
        self.record = Record(self.plan, self.url)
        running = [(config.study, config.number) for config in self.record.interrupted()]
        self.reached = {
            trial: self.chance.choice((0, self.reached.get(trial, 0))) for trial in running
        }

    def run(self, num_steps: int = 10_000) -> None:
        for _ in range(num_steps):
            if not self.step():
                return

    def step(self) -> bool:
        """Something happens to one trial; False: all have ended."""
        to_ask = [
            study.name
            for study in self.plan.studies
            if self.record.num_asked(study.name) < study.num_trials
        ]
        if to_ask and len(self.reached) < NUM_SLOTS:
            config = self.record.ask(self.chance.choice(to_ask))
            self.reached[config.study, config.number] = 0
        elif self.reached:
            self.goes_on(*self.chance.choice(list(self.reached)))
        return bool(to_ask or self.reached)

    def goes_on(self, study: str, number: int) -> None:
        """Its worker reports some epochs; perhaps it has ended with them, or failed."""
        before = self.reached[study, number]
        last = min(EPOCHS, before + self.chance.choice((1, 1, 2, 4)))
        rows = [
            {"epoch": epoch, "val_accuracy": score_of(number, epoch)}
            for epoch in range(before + 1, last + 1)
        ]
        failed = self.chance.random() < 0.03
        stop = self.record.report(study, number, rows, finished=failed or last == EPOCHS)
        ended: dict[str, Any] = {"curve": rows[: (stop or last) - before], "facts": {}}
        if stop is not None:
            self.record.prune(study, number, **ended)
        elif failed:
            self.record.fail(study, number, reason="bad luck", **ended)
        elif last == EPOCHS:
            self.record.complete(study, number, **ended)
        else:
            self.reached[study, number] = last
            return
        del self.reached[study, number]


def score_of(number: int, epoch: int) -> float:
    """Curves that cross, and fall at their end, so that patience runs out as well."""
    chance = Random(number)
    return (chance.random() + chance.random() * epoch / EPOCHS - (epoch > 5) * 0.1 + 0.1) / 2.1


def differences(record: Record) -> list[Difference]:
    return [difference for study in replayed(record) for difference in study.differences]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pruner", choices())
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_in_whatever_order_trials_answer_all_is_derived_again(sampler: str, pruner: str, seed: int):
    search = Search(searched(pruner, sampler), IN_MEMORY, seed)
    search.run(40)
    assert differences(search.record) == []  # also of a search that is in the middle
    search.run()
    found = replayed(search.record)
    assert [study.differences for study in found] == [(), ()]
    assert [study.suggestions for study in found] == [16, 16]
    assert sum(study.decisions for study in found) >= (0 if pruner == "none" else 16)


POINTS = (
    *("after ask", "before report", "after report", "half decision", "after decision"),
    *("before tell", "half tell", "after tell"),
)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_a_search_that_was_killed_and_resumed_is_derived_again(point: str, pruner: str):
    search = killed_at(point, lambda: Search(searched(pruner), IN_MEMORY, 1))
    assert differences(search.record) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a search that is over."""
    folder = tmp_path_factory.mktemp("finished")
    plan = searched("successive_halving", num_trials=NUM_FILED)
    save_plan(plan, folder)
    Search(plan, f"sqlite:///{folder / 'studies.db'}", 3).run()
    return folder


@pytest.fixture
def stored(finished: Path, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Changes a copy of the storage."""
    source, target = (folder / "studies.db" for folder in (finished, tmp_path))
    target.write_bytes(source.read_bytes())
    save_plan(searched("successive_halving", num_trials=NUM_FILED), tmp_path)
    with closing(sqlite3.connect(target)) as connection:

        def change(statement: str) -> None:
            assert connection.execute(statement).rowcount == 1
            connection.commit()

        yield change


def of_trial(number: int, study: int = 2) -> str:
    return (
        f"trial_id = (SELECT trial_id FROM trials WHERE number = {number} AND study_id = {study})"
    )


def pruned_trial(folder: Path) -> int:
    """One of the second study that was stopped."""
    sweep = Sweep.open(folder)
    study = sweep.frozen_plan.studies[1].name
    return [t.number for t in sweep.record.trials(study) if t.state == "pruned"][-1]


def test_a_changed_hyper_parameter_is_found(stored, tmp_path: Path):
    stored(f"UPDATE trial_params SET param_value = 0.5 WHERE param_name = 'lr' AND {of_trial(5)}")
    found = Sweep.open(tmp_path).replay()
    assert found[0].differences == ()
    first = found[1].differences[0]
    assert (first.trial, first.what, first.stored) == (5, "lr", 0.5)
    assert first.derived != 0.5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("'$.stops'", "json('false')"), "stops"),
        (("'$.against.num_others'", "99"), "against: num_others"),
    ],
)
def test_a_changed_decision_is_found(stored, change, what: str, tmp_path: Path):
    number = pruned_trial(tmp_path)
    path, value = change
    stored(
        f"UPDATE trial_user_attributes SET value_json = json_set(value_json, {path}, {value}) "
        f"WHERE key = 'decision' AND {of_trial(number)}"
    )
    first = Sweep.open(tmp_path).replay()[1].differences[0]
    assert first.trial == number
    assert first.what.startswith("decision after epoch ")
    assert first.what.endswith(f": {what}")


def test_a_trial_that_was_stopped_and_is_called_complete_is_found(stored, tmp_path: Path):
    number = pruned_trial(tmp_path)
    stored(f"UPDATE trials SET state = 'COMPLETE' WHERE {of_trial(number)}")
    first = Sweep.open(tmp_path).replay()[1].differences[0]
    assert (first.trial, first.what, first.stored) == (number, "state", "complete")


def test_two_events_that_changed_places_are_found(stored, tmp_path: Path):
    """Two drawings: each would have seen what the other saw."""
    record = open_record(Sweep.open(tmp_path).frozen_plan, tmp_path)
    study = record.optuna_study(record.plan.studies[1].name)
    trials = study.get_trials()
    early, late = (trials[number].user_attrs[DRAWN] for number in (5, 6))
    ended = trials[5].user_attrs[ENDED]
    assert early < late
    stored(
        f"UPDATE trial_user_attributes SET value_json = {ended} "
        f"WHERE key = '{DRAWN}' AND {of_trial(5)}"
    )
    with pytest.raises(ValueError, match=f"expected event {early}, found {early + 1}"):
        Sweep.open(tmp_path).replay()


def test_the_command_names_the_first_difference_and_exits_with_1(stored, tmp_path: Path):
    shown = CliRunner().invoke(app, ["replay", str(tmp_path)])
    assert shown.exit_code == 0
    assert "14 suggestions and" in shown.output
    stored(f"UPDATE trial_params SET param_value = 0.5 WHERE param_name = 'lr' AND {of_trial(5)}")
    shown = CliRunner().invoke(app, ["replay", str(tmp_path)])
    assert shown.exit_code == 1
    assert "first difference: trial #5, event" in shown.output
    assert "lr: stored 0.5, derived" in shown.output
    printed = CliRunner().invoke(app, ["replay", str(tmp_path), "--json"])
    assert printed.exit_code == 1
    assert json.loads(printed.output)[1]["differences"][0]["what"] == "lr"


def test_a_folder_that_may_only_be_read_is_replayed(finished: Path, monkeypatch):
    really = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path != finished and really(path, mode))
    monkeypatch.setattr(Sweep, "record", None)  # which would open the database in the folder
    assert [study.differences for study in Sweep.open(finished).replay()] == [(), ()]


def without_numbers(folder: Path) -> None:
    """As an older version left it."""
    with closing(sqlite3.connect(folder / "studies.db")) as connection:
        connection.execute(f"DELETE FROM trial_user_attributes WHERE key IN ('{DRAWN}', '{ENDED}')")
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = json_remove(value_json, '$.events') "
            "WHERE key = 'decision'"
        )
        connection.commit()


def test_without_numbers_trials_one_after_the_other_are_replayed(tmp_path: Path, monkeypatch):
    plan = searched("successive_halving", num_trials=NUM_FILED)
    save_plan(plan, tmp_path)
    search = Search(plan, f"sqlite:///{tmp_path / 'studies.db'}", 3)
    monkeypatch.setattr("test_replay.NUM_SLOTS", 1)
    search.run()
    before = Sweep.open(tmp_path).replay()
    without_numbers(tmp_path)
    assert Sweep.open(tmp_path).replay() == before


def test_without_numbers_trials_side_by_side_are_not_replayed(finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "old")
    without_numbers(tmp_path / "old")
    with pytest.raises(ValueError, match="ran side by side under an older version"):
        Sweep.open(tmp_path / "old").replay()
