"""Copies of databases for whoever only looks: opening a database may write to it."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from orchestrator.record.database import PATIENCE_SECONDS, StorageError, sqlite_uri

_UNFINISHED = ("", "-journal", "-wal")
"""Beside the database, what was not yet written into it when its process died."""


@contextmanager
def copied(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A folder with copies of those of the databases that are there; gone when the block ends.

    Others may be writing to them: a copy is what they had written whole. StorageError for one that
    stays locked.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrator-look-") as scratch:
        for name in names:
            if (folder / name).is_file():
                _copy(folder / name, Path(scratch, name))
        yield Path(scratch)


def _copy(database: Path, target: Path) -> None:
    if not _opening_writes(database):
        try:
            _copy_locked(database, target)
            return
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise StorageError(
                    f"{database}: is locked by another process", may_pass=True
                ) from None
            # Left half written by a process that died, or no database: whoever opens it will see.
            target.unlink(missing_ok=True)
    for ending in _UNFINISHED:
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{database}{ending}", f"{target}{ending}")


def _copy_locked(database: Path, target: Path) -> None:
    uri = sqlite_uri(database, "ro")
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_SECONDS)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        # `backup` alone waits for a lock without end.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(copy)


def _opening_writes(database: Path) -> bool:
    """One with a write-ahead log that nobody has open: to read it, SQLite would begin a log."""
    with database.open("rb") as file:
        header = file.read(20)
    return header[18:19] == b"\x02" and not Path(f"{database}-shm").exists()
