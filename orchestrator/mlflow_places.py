"""Where a sweep's own MLflow database says that files lie: below the folder of the sweep.

MLflow writes absolute addresses, so a folder that was moved or copied would show no files, or write
into the place it came from; and a database from a stranger could name any file of this machine,
which `ui` would then hand out. Every column that holds an address is known here. An address of
another place is set to the same file below the folder as it lies now.
"""

import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from orchestrator.mlflow_store import ARTIFACTS_FOLDER, TrackingError

WAIT_SECONDS = 30
"""For a database that another process writes to."""

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
    """Addresses in MLflow's database that are not below `artifacts`; nothing is written.

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
    return _told(wrong)


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
    address = f"file:{urllib.parse.quote(str(database.absolute()))}?mode={mode}"
    tables = ", ".join(sorted({f"'{column.table}'" for column in _COLUMNS}))
    try:
        connected = sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        with closing(connected) as connection:
            # One that was put there by hand could undo what we write.
            names = connection.execute(
                f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ({tables})"  # noqa: S608
            ).fetchall()
            if names:
                raise TrackingError(f"{database}: has a trigger, {names[0][0]!r}, not of MLflow's")
            yield connection
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: {error}") from None


def _wrong(connection: sqlite3.Connection, root: Path) -> Iterator[Address]:
    for column in _COLUMNS:
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({column.table})")}
        if column.column not in known:
            continue  # of an older or a newer MLflow
        rows = connection.execute(
            f"SELECT rowid, {column.owner}, {column.column} FROM {column.table} "  # noqa: S608
            f"WHERE {column.column} IS NOT NULL AND {column.only} ORDER BY rowid"
        ).fetchall()
        for row, owner, text in rows:
            if not _is_right(text, column, root):
                yield _address(column, row, owner, text, root)


def _is_right(text: Any, column: _Column, root: Path) -> bool:
    if not isinstance(text, str):
        return False
    if text.startswith("mlflow-artifacts:/") and not text.startswith("mlflow-artifacts://"):
        inside = text.removeprefix("mlflow-artifacts:/")  # below the folder that the server is told
    elif (column.column == "source" and text.startswith(_REFERENCES)) or text == root.as_uri():
        return True
    elif text.startswith(f"{root.as_uri()}/"):
        inside = text.removeprefix(f"{root.as_uri()}/")
    else:
        return False
    decoded = urllib.parse.unquote(urllib.parse.unquote(inside))
    return ".." not in decoded.replace("\\", "/").split("/") and not set(inside) & set("?#;\0")


def _address(column: _Column, row: int, owner: Any, text: Any, root: Path) -> Address:
    tail = _tail(text) if isinstance(text, str) else None
    if tail is None:
        tail = _own_place(column, str(owner))
    foreign = not isinstance(text, str) or _tail(text) is None
    return Address(
        where=f"{column.table} {owner}",
        text=str(text),
        right=root.joinpath(*tail).as_uri(),
        foreign=foreign,
        column=column,
        row=row,
    )


def _tail(text: str) -> tuple[str, ...] | None:
    """The part of a path below the last folder of artifacts in it."""
    path = text
    if text.startswith("file:"):
        path = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
    elif not text.startswith("/"):
        return None
    parts = PurePosixPath(path).parts
    if ARTIFACTS_FOLDER not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index(ARTIFACTS_FOLDER)
    tail = parts[last + 1 :]
    # Decoded once more, since nobody knows how often the server does.
    plain = all(set(urllib.parse.unquote(part)) - set(".") and "\0" not in part for part in tail)
    return tail if plain else None


def _own_place(column: _Column, owner: str) -> tuple[str, ...]:
    plain = owner.replace("-", "").replace("_", "").isalnum() and owner.isascii()
    name = owner if plain else "unnamed"
    return tuple(part for part in column.own_place.format(owner=name).split("/") if part)
