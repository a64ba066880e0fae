"""Where a sweep's own MLflow database says that files lie: below the folder of the sweep.

MLflow writes absolute addresses, so a folder that was moved or copied would show no files, or write
into the place it came from; and a database from a stranger could name any file of this machine,
which `ui` would then hand out. Every column that holds an address is known here. An address of
another place is set to the same file below the folder as it lies now.
"""

import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.database import sqlite_uri
from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER, MLFLOW_FILE, own_database

WAIT_SECONDS = 30
"""For a database that another process writes to."""

_BELOW_SERVERS = "mlflow-artifacts:/"
"""Stands for the folder that a server is told of."""
_REFERENCES = ("runs:/", "models:/")
"""Stand for an address in another row of the same database."""


class _Column(NamedTuple):
    table: str
    column: str
    owner: str
    """Expression for the id of the row, for messages and for the place that is the row's own."""
    own_place: str
    """Below the folder of artifacts; `{owner}` is the id."""
    only: str = "1"


_COLUMNS = (
    _Column("experiments", "artifact_location", "experiment_id", "{owner}"),
    _Column("runs", "artifact_uri", "run_uuid", "{owner}/artifacts"),
    _Column("logged_models", "artifact_location", "model_id", "models/{owner}/artifacts"),
    _Column("model_versions", "source", "run_id", "{owner}/artifacts"),
    _Column("model_versions", "storage_location", "run_id", "{owner}/artifacts"),
    _Column(
        "trace_tags",
        "value",
        "request_id",
        "traces/{owner}/artifacts",
        only="key = 'mlflow.artifactLocation'",
    ),
    _Column("workspaces", "default_artifact_root", "name", ""),
    _Column("workspaces", "trace_archival_location", "name", ""),
)
_DEFAULT_EXPERIMENT = "experiments 0"
"""MLflow makes it with every database, with a place in the folder where the process was started."""

_MLFLOW_TRIGGER = """
CREATE TRIGGER prevent_secrets_aad_mutation
BEFORE UPDATE ON secrets
FOR EACH ROW
WHEN OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name
BEGIN
    SELECT RAISE(ABORT, 'secret_id and secret_name are immutable (used as AAD in encryption)');
END
"""
"""The only one that MLflow makes (its migration 1b5f0d9ad7c1)."""

_DEFINED = re.compile(r"""CREATE (TABLE|INDEX|UNIQUE INDEX|VIEW) ["`[]?(\w+)["`\]]?[\s(]""")
"""A definition as SQLite keeps it; what it does not keep so was written there by hand."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """One that is not below the folder of artifacts."""

    where: str
    """Table and id of the row."""
    text: str
    right: str
    """What it is to be."""
    foreign: bool
    """It never led into a sweep's folder of artifacts."""
    column: _Column
    row: int


def wrong_addresses(database: Path, artifacts: Path) -> list[Address]:
    """Addresses in MLflow's database that are not below `artifacts`; nothing is written, but what a
    writer that was killed had begun is undone, as by all who open it.

    TrackingError if the file is no database of MLflow's.
    """
    return _told(_all_wrong(database, artifacts))


def set_addresses(database: Path, artifacts: Path) -> list[Address]:
    """Set them to places below `artifacts`, all or none; those that were changed.

    TrackingError if the database cannot be written.
    """
    if not _all_wrong(database, artifacts):
        return []
    root = artifacts.resolve()
    with _opened(database, "rw") as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        wrong = list(_wrong(connection, root))
        for address in wrong:
            connection.execute(
                f"UPDATE {address.column.table} SET {address.column.column} = ? WHERE rowid = ?",  # noqa: S608 (our own names)
                (address.right, address.row),
            )
        if left := list(_wrong(connection, root)):
            raise TrackingError(f"{database}: an address cannot be set: {left[0].where}")
    return _told(wrong)


def set_own_addresses(shown: Path, folder: Path) -> list[Address]:
    """`set_addresses` in the database of a sweep's folder, or a copy of it, for a server to show.

    ValueError where a file never was in a sweep's folder: the server would hand it out to whoever
    asks.
    """
    artifacts = folder / ARTIFACTS_FOLDER
    if foreign := [address for address in wrong_addresses(shown, artifacts) if address.foreign]:
        raise ValueError(
            f"{folder / MLFLOW_FILE}: {sentence(foreign)}; `orchestrator doctor {folder} --repair` "
            "sets them to the folder's own"
        )
    return set_addresses(shown, artifacts)


def absolute_addresses(database: Path, artifacts: Path) -> None:
    """Name the folder in addresses that are below whatever folder a server is told of."""
    with _opened(database, "rw") as connection, connection:
        for column in _COLUMNS:
            if column.column in _names(connection, column.table):
                connection.execute(
                    f"UPDATE {column.table} SET {column.column} = ? || "  # noqa: S608 (our own names)
                    f"ltrim(substr({column.column}, ?), '/') WHERE {column.column} LIKE ?",
                    (
                        f"{artifacts.resolve().as_uri()}/",
                        len(_BELOW_SERVERS) + 1,
                        f"{_BELOW_SERVERS}%",
                    ),
                )


def settle(tracking_uri: str, plan: SweepPlan) -> list[Address]:
    """Set those of the sweep's own database to the folder that it lies in; what was changed.

    Nothing where it is not the sweep's own. TrackingError as of `set_addresses`.
    """
    database = own_database(tracking_uri, plan)
    return set_addresses(database, database.parent / ARTIFACTS_FOLDER) if database else []


def sentence(wrong: Sequence[Address]) -> str:
    """What is wrong with them, by one example."""
    first = wrong[0]
    lead = "lead out of the folder" if first.foreign else "are those of another place"
    return f"{len(wrong)} addresses of files {lead}, first of {first.where}: {first.text}"


def _all_wrong(database: Path, artifacts: Path) -> list[Address]:
    with _opened(database, "ro") as connection:
        return list(_wrong(connection, artifacts.resolve()))


def _told(wrong: Sequence[Address]) -> list[Address]:
    """Without that of the experiment which nobody uses, and which every database has."""
    return [address for address in wrong if address.where != _DEFAULT_EXPERIMENT]


@contextmanager
def _opened(database: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = sqlite_uri(database, mode)
    try:
        if mode == "ro" and Path(f"{database}-journal").exists():
            _undo_unfinished(database)
        connected = sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        with closing(connected) as connection:
            # What was put there by hand could undo, or hide, what we read and write.
            if strange := _strange(connection):
                raise TrackingError(f"{database}: has {strange}, not of MLflow's")
            yield connection
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: {error}") from None


def _undo_unfinished(database: Path) -> None:
    """What a writer that was killed had begun; who opens it to read cannot, and is refused."""
    address = sqlite_uri(database, "rw")
    with closing(sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _strange(connection: sqlite3.Connection) -> str | None:
    """Something by which an address could be another one than that which is read in its column."""
    tables = {column.table for column in _COLUMNS}
    for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if text is None or text.split() == _MLFLOW_TRIGGER.split():
            continue  # an index of SQLite's own, or MLflow's trigger
        defined = _DEFINED.match(text)
        if defined is None:
            return f"a {kind}, {name!r}"
        if defined[1] == "VIEW" and ({defined[2].lower(), name.lower()} & tables):
            return f"a view, {name!r}"
    for column in _COLUMNS:
        known = connection.execute(f"PRAGMA table_xinfo({column.table})").fetchall()
        if any(row[1].lower() == column.column and row[6] for row in known):
            return f"a generated column, {column.table}.{column.column}"
        keys = connection.execute(f"PRAGMA foreign_key_list({column.table})").fetchall()
        if any(row[3].lower() == column.column for row in keys):
            return f"a foreign key, {column.table}.{column.column}"
    return None


def _wrong(connection: sqlite3.Connection, root: Path) -> Iterator[Address]:
    for column in _COLUMNS:
        if column.column not in _names(connection, column.table):
            continue  # of an older or a newer MLflow
        rows = connection.execute(
            f"SELECT rowid, {column.owner}, {column.column} FROM {column.table} "  # noqa: S608
            f"WHERE {column.column} IS NOT NULL AND {column.only} ORDER BY rowid"
        ).fetchall()
        for row, owner, text in rows:
            if not _is_right(text, column, root):
                yield _address(column, row, owner, text, root)


def _names(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1].lower() for row in connection.execute(f"PRAGMA table_info({table})")}


def _is_right(text: Any, column: _Column, root: Path) -> bool:
    if not isinstance(text, str):
        return False
    if text.startswith(_BELOW_SERVERS) and not text.startswith(f"{_BELOW_SERVERS}/"):
        inside = text.removeprefix(_BELOW_SERVERS)  # below the folder that the server is told
    elif (column.column == "source" and text.startswith(_REFERENCES)) or text == root.as_uri():
        return True
    elif text.startswith(f"{root.as_uri()}/"):
        inside = text.removeprefix(f"{root.as_uri()}/")
    else:
        return False
    # Twice, since nobody knows how often the server does.
    decoded = urllib.parse.unquote(urllib.parse.unquote(inside))
    steps = decoded.replace("\\", "/").split("/")
    return ".." not in steps and "\0" not in decoded and not set(inside) & set("?#;")


def _address(column: _Column, row: int, owner: Any, text: Any, root: Path) -> Address:
    tail = _tail(text) if isinstance(text, str) else None
    right = "" if tail is None else root.joinpath(*tail).as_uri()
    foreign = not _is_right(right, column, root)
    if foreign:
        right = root.joinpath(*_own_place(column, str(owner))).as_uri()
    return Address(
        where=f"{column.table} {owner}",
        text=str(text),
        right=right,
        foreign=foreign,
        column=column,
        row=row,
    )


def _tail(text: str) -> tuple[str, ...] | None:
    """The part of a path below the last folder of artifacts in it."""
    path = text
    if text.startswith("file:"):
        try:
            path = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
        except ValueError:  # the name of a host in a bracket
            return None
    elif not text.startswith("/"):
        return None
    parts = PurePosixPath(path).parts
    if ARTIFACTS_FOLDER not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index(ARTIFACTS_FOLDER)
    return parts[last + 1 :]


def _own_place(column: _Column, owner: str) -> tuple[str, ...]:
    plain = owner.replace("-", "").replace("_", "").isalnum() and owner.isascii()
    name = owner if plain else "unnamed"
    return tuple(part for part in column.own_place.format(owner=name).split("/") if part)
