"""Trials are read from the database as Optuna reads them."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from orchestrator.record.database import open_storage
from orchestrator.record.read_tables import read_trials

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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('stored') / 'studies.db'}"


@settings(deadline=None, max_examples=25)
@given(trials=TRIALS, newer_than=st.integers(0, 3), named=st.sets(st.integers(0, 5)))
def test_they_equal_what_optuna_reads(
    url: str, trials: list[dict[str, Any]], newer_than: int, named: set[int]
):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours, optunas = open_storage(url)._backend, RDBStorage(url)
    study = optuna.create_study(storage=optunas)
    for told in trials:
        add(study, told)
    first = min((t._trial_id for t in study.get_trials()), default=0)
    named, newer_than = {first + number for number in named}, first + newer_than
    for states in (None, (TrialState.COMPLETE, TrialState.RUNNING)):
        for asked in ((set(), -1), (named, newer_than), (named, -1)):
            found = ours._get_trials(study._study_id, states, *asked)
            assert repr(found) == repr(optunas._get_trials(study._study_id, states, *asked))


def test_many_may_be_named(url: str):
    ours = open_storage(url)._backend
    study = optuna.create_study(storage=RDBStorage(url))
    first = study.ask()._trial_id
    study.ask()
    named = {*range(first, first + 5000, 2)}
    found = read_trials(ours.engine, study._study_id, newer_than=first + 9000, and_these=named)
    assert [trial.number for trial in found] == [0]


def test_a_study_that_is_not_there_is_an_error(tmp_path: Path):
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    with pytest.raises(KeyError, match="no study 7"):
        read_trials(storage._backend.engine, 7)
