"""One driver per sweep: a second one is refused and told who the first is.

The folder is held by a lock of the kernel, a sweep in PostgreSQL also by a lock of that server.
Both end with their process, however that ends, so that no clock decides who is alive.
"""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy

from orchestrator.plan import PLAN_FILE

LOCK_FILE = ".owner"


def claim_folder(folder: Path) -> Path:
    """A new, empty sweep folder; ValueError if there is something in it already."""
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
    path = folder / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(f"{folder}: is being run by {_describe(file.read())}") from None
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        yield


@contextmanager
def leased(storage_url: str | None, sweep: str) -> Iterator[None]:
    """Hold a sweep whose storage is a PostgreSQL server that drivers of other machines reach too.

    Does nothing for a file, which the sweep's folder holds already.
    """
    if storage_url is None or not storage_url.startswith("postgres"):
        yield
        return
    key = int.from_bytes(hashlib.sha256(sweep.encode()).digest()[:4], "big") >> 1
    name = f"orchestrator process {os.getpid()} on {socket.gethostname()}"[:63]
    engine = sqlalchemy.create_engine(storage_url, poolclass=sqlalchemy.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            sqlalchemy.text("SELECT set_config('application_name', :name, false)"), {"name": name}
        )
        # A driver whose machine is gone without a word is let go of within a minute.
        for setting, seconds in (("idle", 20), ("interval", 10), ("count", 3)):
            connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{setting} = {seconds}"))
        if not connection.execute(
            sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}
        ).scalar():
            raise ValueError(f"{sweep}: is being run by {_holder(connection, key)}")
        yield


def _holder(connection: sqlalchemy.Connection, key: int) -> str:
    found = connection.execute(
        sqlalchemy.text(
            "SELECT application_name, client_addr, date_trunc('second', now() - backend_start) "
            "FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND classid = 0 AND objid = :key AND granted"
        ),
        {"key": key},
    ).first()
    if found is None:
        return "another process, which has just ended: try again"
    name, address, age = found
    return f"{name}{f' ({address})' if address else ''}, for {age} (hours:minutes:seconds)"


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
