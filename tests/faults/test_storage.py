"""The database of a sweep is locked, away, damaged or refused: waited for, or said in a line."""

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from plans import LONGEST_WAIT_SECONDS, make_plan, make_record, wait_for
from postgres import PASSWORD, PostgreSQL
from sqlalchemy import event, exc

from orchestrator.record import database
from orchestrator.record.database import (
    PatientStorage,
    StorageError,
    open_database,
    open_storage,
)
from orchestrator.record.read_tables import read_trials
from orchestrator.record.record import Record

PLAN = make_plan(num_trials=9)
(STUDY,) = (study.name for study in PLAN.studies)


@contextmanager
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


def waits(caplog: pytest.LogCaptureFixture) -> bool:
    return "waiting up to" in caplog.text


def test_a_locked_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    record = make_record(PLAN, tmp_path)
    with ThreadPoolExecutor() as pool:
        with locked(tmp_path / "studies.db"):
            asked = pool.submit(record.ask, STUDY)
            wait_for(lambda: waits(caplog))
            assert not asked.done()
        assert asked.result(LONGEST_WAIT_SECONDS).number == 0
    assert "studies.db: is locked by another process; waiting up to 60 s" in caplog.text


def test_a_file_that_stays_locked_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    record = make_record(PLAN, tmp_path)
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0)
    stays = r"studies\.db: is locked by another process, for 0 s"
    with locked(tmp_path / "studies.db"), pytest.raises(StorageError, match=stays):
        record.ask(STUDY)
    assert record.ask(STUDY).number == 0, "the storage is whole"


@pytest.mark.parametrize(
    ("content", "told"), [(b"not ours\n" * 1000, "is not a database"), (None, "is damaged")]
)
def test_a_file_that_is_not_ours_or_torn_is_named(content: bytes | None, told: str, tmp_path: Path):
    record = make_record(PLAN, tmp_path)
    for _ in range(9):
        record.ask(STUDY)
    database = tmp_path / "studies.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(StorageError, match=rf"studies\.db: {told}"):
        Record(PLAN, f"sqlite:///{database}").all_trials()


def test_a_trial_whose_answer_was_lost_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The server made it, and the connection broke before it could say so."""
    record = make_record(PLAN, tmp_path)
    create = RDBStorage._create_new_trial
    answers = iter([False, True])

    def answer_is_lost_once(*arguments):
        made = create(*arguments)
        if not next(answers, True):
            raise StorageError("the connection broke", may_pass=True)
        return made

    monkeypatch.setattr(RDBStorage, "_create_new_trial", answer_is_lost_once)
    assert [record.ask(STUDY).number for _ in range(3)] == [0, 1, 2]
    assert [trial.number for trial in record.trials(STUDY)] == [0, 1, 2]


@pytest.mark.postgres
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_is_waited_for(
    mode: str, postgres: PostgreSQL, caplog: pytest.LogCaptureFixture
):
    plan = make_plan(name=f"restart-{mode}", num_trials=9)
    record = Record(plan, postgres.url())
    record.ask(STUDY)
    with ThreadPoolExecutor() as pool:
        postgres.stop(mode)
        asked = pool.submit(record.ask, STUDY)
        wait_for(lambda: waits(caplog))
        postgres.start()
        assert asked.result(LONGEST_WAIT_SECONDS).number == 1
    assert [trial.number for trial in record.trials(STUDY)] == [0, 1]
    assert PASSWORD not in caplog.text


@pytest.mark.postgres
def test_a_server_that_stays_away_is_one_clear_error(
    postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
):
    record = Record(make_plan(name="away", num_trials=9), postgres.url())
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0)
    postgres.stop("fast")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:.*does not answer .*, for 0 s") as told:
        record.ask(STUDY)
    postgres.start()
    assert PASSWORD not in str(told.value)
    assert record.ask(STUDY).number == 0, "the storage is whole"


@pytest.mark.postgres
def test_a_refused_connection_names_the_server_and_not_the_password(postgres: PostgreSQL):
    for url, told in (
        (postgres.url("wrong-horse"), "refuses the connection"),
        (postgres.url().replace(f":{postgres.port}/", ":1/"), "does not answer"),
        (postgres.url().replace("/postgres", "/nowhere"), "refuses the connection"),
        ("postgresql+nodriver://tester:open-sesame@host/x", "a driver that is not installed"),
        ("postgresql://tester:open sesame@host:port:x", "is not the address of a database"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            open_storage(url)
        assert not any(word in str(error.value) for word in ("horse", "sesame"))


OPENS = """
import sys
from orchestrator.record.database import open_storage
print("ready", flush=True)
sys.stdin.readline()
open_storage(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_sweeps_may_begin_together_on_a_new_database(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    url = f"sqlite:///{tmp_path / 'new.db'}"
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgres")
        engine = sqlalchemy.create_engine(server.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("CREATE DATABASE new"))
        engine.dispose()
        url = server.url().replace("/postgres", "/new")
    sweeps = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for sweep in sweeps:
        assert sweep.stdout is not None and sweep.stdout.readline() == "ready\n"
    for sweep in sweeps:
        assert sweep.stdin is not None
        sweep.stdin.write("\n")
        sweep.stdin.flush()
    said = [sweep.communicate(timeout=LONGEST_WAIT_SECONDS)[1] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0, 0, 0], said


@pytest.fixture(autouse=True)
def _hear_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_trials_are_read_as_of_one_moment_while_a_driver_writes(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """It waits, or is not seen."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").url()
    plan = make_plan(name=f"moment-{kind}")
    record = Record(plan, url)
    seed = plan.trial_seed(STUDY, record.ask(STUDY).number)
    writer = sqlalchemy.create_engine(url, connect_args={"timeout": 0} if kind == "sqlite" else {})
    written = []

    def write(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "trial_user_attributes" not in statement:
            return  # the trials themselves are to be read before
        with suppress(exc.OperationalError):
            with writer.begin() as other:
                other.execute(sqlalchemy.text("UPDATE trial_user_attributes SET value_json = '77'"))
            written.append(statement)

    reader = open_database(url)
    assert isinstance(reader, PatientStorage)
    study_id = reader.get_study_id_from_name(record.optuna_study(STUDY).study_name)
    event.listen(reader.engine, "before_cursor_execute", write)
    (trial,) = read_trials(reader.engine, study_id)
    assert trial.user_attrs["seed"] == seed
    assert len(written) == (kind == "postgresql")
