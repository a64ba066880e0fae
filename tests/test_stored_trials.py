"""Trials are read from the database, and written to it, as Optuna does.

By column where Optuna's tables are those that were tested, and else by Optuna's own methods.
"""

import inspect
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.record import optuna_private
from orchestrator.record.database import PatientStorage, open_database, open_storage
from orchestrator.record.read_tables import read_trials
from orchestrator.record.write_tables import write_trial

STATES = [*TrialState]
numbers = st.floats(allow_nan=True, allow_infinity=True)
text = st.text(max_size=5)
TRIALS = st.lists(
    st.fixed_dictionaries(
        {
            "state": st.sampled_from(STATES),
            "lr": st.none() | st.floats(1e-3, 1.0),
            "init": st.none() | st.sampled_from(["random", None, True, 3]),
            "reports": st.dictionaries(st.integers(0, 9), numbers, max_size=4),
            "user": st.dictionaries(text, st.none() | text | st.lists(st.integers()), max_size=3),
            "value": st.floats(allow_nan=False, allow_infinity=True),
        }
    ),
    max_size=6,
)


def add(study: optuna.Study, told: dict[str, Any]) -> None:
    trial = study.ask()
    if told["lr"] is not None:
        trial.suggest_float("lr", 1e-3, 1.0, log=True)
    if told["init"] is not None:
        trial.suggest_categorical("init", ["random", None, True, 3])
    for step, value in told["reports"].items():
        trial.report(value, step)
    for key, value in told["user"].items():
        trial.set_user_attr(key, value)
    if told["state"].is_finished():
        is_complete = told["state"] is TrialState.COMPLETE
        study.tell(trial, told["value"] if is_complete else None, state=told["state"])


@contextmanager
def with_tables_of(version: str) -> Iterator[None]:
    """As if these were the tables that we know."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(optuna_private, "TESTED_TABLES", version)
        optuna_private.knows_tables.cache_clear()
        yield
    optuna_private.knows_tables.cache_clear()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('stored') / 'studies.db'}"


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(trials=TRIALS, newer_than=st.integers(0, 3), named=st.sets(st.integers(0, 5)))
def test_they_equal_what_optuna_reads(
    url: str, trials: list[dict[str, Any]], newer_than: int, named: set[int]
):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours, optunas = open_database(url), RDBStorage(url)
    with with_tables_of("v9.9.9"):
        by_method = open_database(url)
    assert (ours.knows_tables, by_method.knows_tables) == (True, False)
    study = optuna.create_study(storage=optunas)
    for told in trials:
        add(study, told)
    first = min((t._trial_id for t in study.get_trials()), default=0)
    named, newer_than = {first + number for number in named}, first + newer_than
    for states in (None, (TrialState.COMPLETE, TrialState.RUNNING)):
        for asked in ((set(), -1), (named, newer_than), (named, -1)):
            expected = repr(optunas._get_trials(study._study_id, states, *asked))
            assert repr(ours._get_trials(study._study_id, states, *asked)) == expected
            assert repr(by_method._get_trials(study._study_id, states, *asked)) == expected


WRITTEN = st.fixed_dictionaries(
    {},
    optional={
        "values": st.dictionaries(st.integers(0, 9), numbers, max_size=4),
        "params": st.fixed_dictionaries(
            {},
            optional={
                "lr": st.tuples(st.floats(1e-3, 1.0), st.just(FloatDistribution(1e-3, 1.0))),
                "init": st.tuples(
                    st.integers(0, 1), st.just(CategoricalDistribution(["random", None]))
                ),
            },
        ),
        "user_attrs": st.dictionaries(text, st.none() | text | st.lists(numbers), max_size=3),
        "system_attrs": st.dictionaries(text, st.integers(), max_size=3),
    },
)


@settings(deadline=None, max_examples=25)
@given(written=st.lists(WRITTEN, max_size=3))
def test_what_is_written_by_column_is_what_optunas_methods_write(
    url: str, written: list[dict[str, Any]]
):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for later in written[1:]:  # parameters are written once
        later.pop("params", None)
    by_column = open_database(url)
    with with_tables_of("v9.9.9"):
        by_method = open_database(url)

    def read_after(database: PatientStorage) -> FrozenTrial:
        study = optuna.create_study(storage=database)
        trial_id = study.ask()._trial_id
        for one in written:
            write_trial(database, trial_id, **one)
        return RDBStorage(url).get_trial(trial_id)

    ours, optunas = read_after(by_column), read_after(by_method)
    for told in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
        # As text: a number that is none does not equal itself.
        ours_told, optunas_told = getattr(ours, told), getattr(optunas, told)
        assert repr(sorted(ours_told.items())) == repr(sorted(optunas_told.items())), told


@pytest.mark.parametrize(
    "other",
    [
        lambda patched: patched.setattr(optuna_private, "TESTED_TABLES", "v9.9.9"),
        lambda patched: patched.setattr(optuna, "__version__", "5.1.0"),
        lambda patched: patched.setitem(
            optuna_private.TABLES, "optuna.storages._rdb.models.TrialModel.gone", ""
        ),
    ],
    ids=["another schema", "another minor version", "another column"],
)
def test_tables_that_were_not_tested_are_left_to_optuna_with_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    other: Callable[[pytest.MonkeyPatch], None],
):
    other(monkeypatch)
    optuna_private.knows_tables.cache_clear()
    address = f"sqlite:///{tmp_path / 'studies.db'}"
    with caplog.at_level(logging.WARNING):
        databases = [open_database(address) for _ in range(2)]
    assert not any(database.knows_tables for database in databases)
    (said,) = caplog.messages
    assert said.startswith("tested with Optuna 5.0; ")
    study = optuna.create_study(storage=databases[0])
    study.tell(study.ask(), 0.5)
    assert [
        trial.value
        for trial in optuna.load_study(storage=databases[1], study_name=study.study_name).trials
    ] == [0.5]
    optuna_private.knows_tables.cache_clear()


def test_optunas_tables_of_another_version_are_refused_in_a_line(tmp_path: Path):
    path = tmp_path / "studies.db"
    open_database(f"sqlite:///{path}")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    with pytest.raises(
        ValueError, match=r"^sqlite:///.*studies.db: .*optuna storage upgrade"
    ) as no:
        open_database(f"sqlite:///{path}")
    assert "\n" not in str(no.value)


def test_whatever_optuna_asks_of_the_database_waits_for_it():
    """Also what its cache, which is none of ours, asks it."""
    cache = inspect.getsource(type(open_storage("sqlite://")))
    asked = {*BaseStorage.__abstractmethods__, *re.findall(r"self\._backend\.(\w+)", cache)}
    never = {name for name in asked if "heartbeat" in name or "stale" in name}  # we have none
    made = {"create_new_trial"}  # asks _create_new_trial
    assert asked - never - made <= vars(PatientStorage).keys()


def test_many_may_be_named(url: str):
    ours = open_database(url)
    study = optuna.create_study(storage=RDBStorage(url))
    first = study.ask()._trial_id
    study.ask()
    named = {*range(first, first + 5000, 2)}
    found = read_trials(ours.engine, study._study_id, newer_than=first + 9000, and_these=named)
    assert [trial.number for trial in found] == [0]


def test_a_study_that_is_not_there_is_an_error(tmp_path: Path):
    database = open_database(f"sqlite:///{tmp_path / 'studies.db'}")
    with pytest.raises(KeyError, match="no study 7"):
        read_trials(database.engine, 7)
