"""The databases of several sweeps as one, for pages on all of them. The originals are only read.

Copies are put together by rows. Ids of runs differ everywhere; numbers of experiments begin anew in
every folder, and names may be the same, so these are changed in the copies.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from orchestrator.record.copies import copied
from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.mlflow.places import absolute_addresses, set_own_addresses
from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER, MLFLOW_FILE

_TABLES = (
    *("experiments", "experiment_tags"),
    *("runs", "params", "tags", "metrics", "latest_metrics"),
    *("datasets", "inputs", "input_tags"),
    *("registered_models", "registered_model_tags", "registered_model_aliases"),
    *("model_versions", "model_version_tags"),
    *("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics"),
)
"""What the pages of runs and models show, each table after those that it refers to."""
_OF_REGISTRY = tuple(
    table for table in _TABLES if table.startswith(("registered_model", "model_version"))
)
"""Those whose rows name a registered model."""
_DEFAULT_EXPERIMENT = 0
"""MLflow makes it with every database; all have it, and nobody uses it."""


class _Part(NamedTuple):
    folder: Path
    database: Path
    """A copy, which may be changed."""


@contextmanager
def united(folders: Sequence[Path]) -> Iterator[Path]:
    """A folder with one database of all; gone when the block ends.

    ValueError where a database names foreign files, or two have the tables of different MLflows.
    """
    with ExitStack() as stack:
        parts = [
            _Part(folder, stack.enter_context(copied(folder, [MLFLOW_FILE])) / MLFLOW_FILE)
            for folder in folders
        ]
        for part in parts:
            with _told_of(part):
                set_own_addresses(part.database, part.folder)
                absolute_addresses(part.database, part.folder / ARTIFACTS_FOLDER)
        first, *others = parts
        with closing(sqlite3.connect(first.database, isolation_level=None)) as connection:
            with _told_of(first):
                version = _version(connection, "main")
            for other in others:
                with _told_of(other):
                    _take_in(connection, other, first, version)
        yield first.database.parent


@contextmanager
def _told_of(part: _Part) -> Iterator[None]:
    """What is wrong with a copy is said of its folder."""
    try:
        yield
    except (TrackingError, sqlite3.Error) as error:
        raise ValueError(f"{part.folder / MLFLOW_FILE}: cannot be shown: {error}") from error


def _take_in(
    connection: sqlite3.Connection, part: _Part, first: _Part, version: list[object]
) -> None:
    connection.execute("ATTACH ? AS other", [str(part.database)])
    try:
        if _version(connection, "other") != version:
            raise ValueError(
                f"{part.folder}: its {MLFLOW_FILE} has the tables of another MLflow than that of "
                f"{first.folder}, so that they cannot be shown together; show them one by one"
            )
        _refuse_shared_runs(connection, part)
        connection.execute("BEGIN")
        _renumber(connection)
        _rename(connection, "experiments", ("experiments",), part.folder.name)
        _rename(connection, "registered_models", _OF_REGISTRY, part.folder.name)
        for table in _TABLES:
            names = ", ".join(f'"{name}"' for name in _columns(connection, "main", table))
            connection.execute(
                f"INSERT OR IGNORE INTO main.{table} ({names}) SELECT {names} FROM other.{table}"  # noqa: S608 (names of the first database, which our MLflow reads)
            )
        connection.execute("COMMIT")
    finally:
        connection.rollback()  # of one that failed halfway; it could not be detached
        connection.execute("DETACH other")


def _renumber(connection: sqlite3.Connection) -> None:
    """Give the experiments of `other` numbers after those that are there."""
    (last,) = connection.execute("SELECT max(experiment_id) FROM main.experiments").fetchone()
    for table in _TABLES:
        if "experiment_id" in _columns(connection, "other", table):
            connection.execute(
                f"UPDATE other.{table} SET experiment_id = -experiment_id - ? "  # noqa: S608
                "WHERE experiment_id != ?",
                [last or 0, _DEFAULT_EXPERIMENT],
            )
            # By way of numbers below zero, since row by row none may be there twice.
            connection.execute(
                f"UPDATE other.{table} SET experiment_id = -experiment_id "  # noqa: S608
                "WHERE experiment_id < 0"
            )


def _rename(connection: sqlite3.Connection, table: str, tables: Sequence[str], folder: str) -> None:
    """Give what has a name that is taken the name of its folder besides."""
    taken = {name for (name,) in connection.execute(f"SELECT name FROM main.{table}")}  # noqa: S608
    named = "" if table != "experiments" else f" WHERE experiment_id != {_DEFAULT_EXPERIMENT}"
    own = [name for (name,) in connection.execute(f"SELECT name FROM other.{table}{named}")]  # noqa: S608
    for name in own:
        new, number = name, 2
        while new in taken or (new != name and new in own):
            new, number = f"{name} ({folder}, {number})", number + 1
        taken.add(new)
        for each in tables if new != name else ():
            connection.execute(f"UPDATE other.{each} SET name = ? WHERE name = ?", [new, name])  # noqa: S608


def _refuse_shared_runs(connection: sqlite3.Connection, part: _Part) -> None:
    """Rows of one run from two databases would be shown as its own numbers."""
    for table in _TABLES:
        if "run_uuid" in _columns(connection, "other", table):
            shared = connection.execute(
                f"SELECT run_uuid FROM other.{table} "  # noqa: S608
                "WHERE run_uuid IN (SELECT run_uuid FROM main.runs) LIMIT 1"
            ).fetchone()
            if shared:
                raise ValueError(
                    f"{part.folder}: its {MLFLOW_FILE} has values of run {shared[0]}, which is of "
                    "another of these sweeps; show them one by one"
                )


def _version(connection: sqlite3.Connection, schema: str) -> list[object]:
    return connection.execute(f"SELECT version_num FROM {schema}.alembic_version").fetchall()  # noqa: S608


def _columns(connection: sqlite3.Connection, schema: str, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA {schema}.table_info({table})")]
