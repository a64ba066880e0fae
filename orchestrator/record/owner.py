"""One driver per sweep: a second one is refused and told who the first is.

The folder is held by a lock of the kernel, a sweep in PostgreSQL also by a lock of that server.
Both end with their process, however that ends, so that no clock decides who is alive.
"""

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy

from orchestrator.plan.plan import PLAN_FILE
from orchestrator.record.database import StorageError, checked, make_engine
from orchestrator.support.locks import take
from orchestrator.support.regular_file import refuse_links_within

LOCK_FILE = ".owner"


def default_folder(suite: str) -> Path:
    """`sweeps/<suite>-<time>`."""
    name = Path(suite).name or "sweep"
    return Path("sweeps") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def claim_folder(folder: Path) -> Path:
    """A new, empty sweep folder; ValueError if there is something in it already."""
    if folder.name in ("", ".."):  # `.`, which names nothing
        folder = folder.resolve()
    if (folder / PLAN_FILE).exists():
        raise ValueError(
            f"{folder}: belongs to another sweep; `orchestrator resume {folder}` goes on with it, "
            "or choose another --out"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty and is not a sweep; choose another --out")
    return folder


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the sweep in `folder`; ValueError names the process that holds it already.

    The lock is the kernel's, so that it ends with its process, however that ends.
    """
    refuse_links_within(folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(folder / LOCK_FILE, flags, 0o666), "r+", encoding="utf-8") as file:
        # Who only asks whether it is taken holds it for a moment.
        if not take(file) and (time.sleep(0.2) or not take(file)):
            file.seek(0)
            raise ValueError(f"{folder}: is being run by {_describe(file.read())}")
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        yield


@contextmanager
def unowned(folder: Path) -> Iterator[None]:
    """For whoever only reads: ValueError if a process holds the sweep, before or while it is read.

    Nothing is written, so that it can be asked of a folder that may not be written.
    """
    _refuse_owner(folder)
    yield
    _refuse_owner(folder)


def _refuse_owner(folder: Path) -> None:
    text = _note_of_owner(folder)
    if text is not None:
        raise ValueError(f"{folder}: is being run by {_describe(text)}")


def _note_of_owner(folder: Path) -> str | None:
    """What the process that holds the folder wrote of itself; None if none holds it."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None  # nobody ever ran it here
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        return None if take(file, shared=True) else file.read()


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A process that holds a sweep now."""

    who: str
    """`process 12 on node-1 since 2026-01-31T12:00:00+00:00`."""
    since: datetime | None
    """With its time zone; None where it did not say."""


def driver_of(folder: Path, storage_url: str | None, sweep: str) -> Driver | None:
    """Who holds the sweep now, if anybody; asks as a reader, and takes nothing from anybody."""
    text = _note_of_owner(folder)
    if text is not None:
        return Driver(who=_describe(text), since=_since(text))
    if not _has_leases(storage_url):
        return None
    assert storage_url is not None
    with make_engine(storage_url, poolclass=sqlalchemy.NullPool).connect() as connection:
        found = _holding(connection, _key(sweep))
    return found and Driver(who=_in_words(*found[:3]), since=found[3])


def would_see_driver(folder: Path, storage_url: str | None) -> bool:
    """Whether `driver_of` could tell of one, on whatever machine it runs."""
    return folder.is_dir() or _has_leases(storage_url)


def _has_leases(storage_url: str | None) -> bool:
    return storage_url is not None and storage_url.startswith("postgres")


@contextmanager
def leased(storage_url: str | None, sweep: str) -> Iterator[None]:
    """Hold a sweep whose storage is a PostgreSQL server that drivers of other machines reach too.

    Does nothing for a file, which the sweep's folder holds already. A restarted server has
    forgotten us: the sweep is taken again before anything is written, unless another driver was
    there meanwhile.
    """
    if storage_url is None or not _has_leases(storage_url):
        yield
        return
    lease = _Lease(storage_url, sweep)
    lease.hold()
    try:
        with checked(storage_url, lease.hold):
            yield
    finally:
        lease.give_up()


class _Lease:
    """A lock of the server, which ends with our connection, and a note of who had it last."""

    def __init__(self, storage_url: str, sweep: str) -> None:
        self._sweep = sweep
        self._key = _key(sweep)
        self._engine = make_engine(storage_url, poolclass=sqlalchemy.NullPool)
        self._connection: sqlalchemy.Connection | None = None
        self._process = f"orchestrator process {os.getpid()} on {socket.gethostname()}"[:63]
        self._owner = uuid.uuid4().hex
        self._taken = False
        self._one_at_a_time = threading.Lock()

    def hold(self) -> None:
        """Take the lock, or see to it that it is still ours; ValueError says who has it."""
        with self._one_at_a_time:
            if self._connection is not None:
                try:
                    self._connection.execute(sqlalchemy.text("SELECT 1"))
                    return
                except StorageError:
                    self._connection.invalidate()
                    self.give_up()
            self._take()

    def give_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self) -> None:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._lock(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._taken = connection, True

    def _lock(self, connection: sqlalchemy.Connection) -> None:
        def ask(statement: str, **values: Any) -> sqlalchemy.CursorResult[Any]:
            return connection.execute(sqlalchemy.text(statement), values)

        ask("SELECT set_config('application_name', :name, false)", name=self._process)
        # A driver whose machine is gone without a word is let go of within a minute.
        for setting, seconds in (("idle", 20), ("interval", 10), ("count", 3)):
            ask(f"SET tcp_keepalives_{setting} = {seconds}")
        if not ask("SELECT pg_try_advisory_lock(:key)", key=self._key).scalar():
            holder = _holder(connection, self._key)
            # After a cut cable the server may still see our own old connection.
            ours = holder.startswith(self._process)
            raise StorageError(f"{self._sweep}: is being run by {holder}", may_pass=ours)
        ask("CREATE TABLE IF NOT EXISTS orchestrator_owners (sweep text PRIMARY KEY, owner text)")
        last = ask("SELECT owner FROM orchestrator_owners WHERE sweep = :s", s=self._sweep).scalar()
        if self._taken and last != self._owner:
            raise StorageError(
                f"{self._sweep}: another driver ran it while the storage was away from this one"
            )
        ask(
            "INSERT INTO orchestrator_owners VALUES (:s, :o) "
            "ON CONFLICT (sweep) DO UPDATE SET owner = excluded.owner",
            s=self._sweep,
            o=self._owner,
        )


def _key(sweep: str) -> int:
    """Of the lock of the server that stands for a sweep."""
    return int.from_bytes(hashlib.sha256(sweep.encode()).digest()[:4], "big") >> 1


def _holder(connection: sqlalchemy.Connection, key: int) -> str:
    found = _holding(connection, key)
    if found is None:
        return "another process, which has just ended: try again"
    return _in_words(*found[:3])


def _holding(connection: sqlalchemy.Connection, key: int) -> Any:
    """Name, address, age and begin of the connection that has the lock, or None."""
    return connection.execute(
        sqlalchemy.text(
            "SELECT application_name, client_addr, date_trunc('second', now() - backend_start), "
            "backend_start "
            "FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND classid = 0 AND objid = :key AND granted"
        ),
        {"key": key},
    ).first()


def _in_words(name: str, address: str | None, age: object) -> str:
    return f"{name}{f' ({address})' if address else ''}, for {age} (hours:minutes:seconds)"


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _since(text: str) -> datetime | None:
    try:
        since = datetime.fromisoformat(json.loads(text)["since"])
    except (ValueError, KeyError, TypeError):
        return None
    return since if since.tzinfo else None
