"""Image files, read as if somebody had prepared them against us."""

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TypeVar

from orchestrator.data.held import held_image
from orchestrator.data.pixels import DECODER, decode, is_white
from orchestrator.data.task import DataError, Example
from orchestrator.support.phases import each

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

MAX_FILE_BYTES = 1 << 30
_SETTLED_NANOSECONDS = 2_000_000_000
"""A file changed later than this before it was hashed may change again within one clock tick."""


def locate(example: Example, folders: dict[str, str] | None = None) -> tuple[str, os.stat_result]:
    """The real path of an example's image: a regular file of bounded size inside its root.

    Of a held image, the file that holds it, of any size.
    `folders` remembers where folders really are while many examples are located.
    """
    folders = {} if folders is None else folders
    file = example.held.file if example.held else example.file
    folder, name = os.path.split(os.path.join(example.root, file))  # noqa: PTH118
    for one in (example.root, folder):
        if one not in folders:
            folders[one] = os.path.realpath(one)
    path = f"{folders[folder]}/{name}"
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            path = os.path.realpath(path)
            status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{example.file!r} cannot be read: {reason}") from error
    inside = folders[example.root].rstrip("/") + "/"
    if not example.is_linked and not path.startswith(inside):
        raise DataError(f"{example.file!r} leads out of the folder of its task, to {path}")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{example.file!r} is not a regular file")
    if status.st_size == 0:
        raise DataError(f"{example.file!r} is empty")
    if status.st_size > MAX_FILE_BYTES and example.held is None:
        raise DataError(f"{example.file!r} has {status.st_size:,} bytes, more than any image needs")
    return path, status


def read(example: Example) -> bytes:
    path, status = locate(example)
    if example.held is not None:
        return held_image(path, status, example.held)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{example.file!r} cannot be read: {error.strerror}") from error


def is_white_or_fault(example: Example) -> bool | DataError:
    """Whether this image is white all over, or why it cannot be decoded."""
    try:
        return is_white(decode(read(example), example.file))
    except DataError as error:
        return error


def num_threads() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Like map, in threads (PIL and hashlib release the lock), a bounded number of items ahead."""
    iterator = iter(items)
    with ThreadPoolExecutor(num_threads(), thread_name_prefix="images") as pool:
        while chunk := list(islice(iterator, 64 * num_threads())):
            yield from pool.map(function, chunk)


class ContentHashes:
    """The sha256 of image files, remembered as long as a file's size and times stay the same.

    And, by content, which images were decoded without a fault. The memory is a convenience: when it
    cannot be read or written, files are read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashed_files = 0
        """How many files this instance read."""

    def of(self, examples: Sequence[Example]) -> list[bytes | DataError]:
        """The hash of each example's file, or why there is none."""
        remembered = self._recall(_path_key(example) for example in examples)
        results: list[bytes | DataError | None] = []
        identities: dict[int, str] = {}
        folders: dict[str, str] = {}
        for index, example in enumerate(examples):
            try:
                _, status = locate(example, folders)
            except DataError as error:
                results.append(error)
                continue
            identities[index] = _identity(status)
            identity, content = remembered.get(_path_key(example), ("changed", b""))
            results.append(content if identity == identities[index] else None)
        unknown = [index for index, result in enumerate(results) if result is None]
        hashed = each(
            "reading files",
            parallel_map(_hash, (examples[index] for index in unknown)),
            len(unknown),
        )
        fresh = []
        for index, result in zip(unknown, hashed, strict=True):
            results[index] = result
            if isinstance(result, bytes) and identities[index]:
                fresh.append((_path_key(examples[index]), identities[index], result))
        self.hashed_files += len(unknown)
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", fresh)
        return [result for result in results if result is not None]

    def of_sound_images(self, contents: Iterable[bytes]) -> set[bytes]:
        """Those of the contents that were decoded before."""
        try:
            with closing(self._connect()) as connection:
                query = "SELECT 1 FROM sound WHERE sha256 = ?"
                return {
                    one for one in contents if connection.execute(query, _sound_row(one)).fetchone()
                }
        except (sqlite3.Error, OSError) as error:
            self._forget(error)
            return set()

    def remember_sound_images(self, contents: Iterable[bytes]) -> None:
        self._write("INSERT OR IGNORE INTO sound VALUES (?)", [_sound_row(one) for one in contents])

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, identity TEXT, sha256 BLOB)"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS sound (sha256 BLOB PRIMARY KEY)")
        return connection

    def _recall(self, keys: Iterable[str]) -> dict[str, tuple[str, bytes]]:
        try:
            with closing(self._connect()) as connection:
                query = "SELECT identity, sha256 FROM files WHERE path = ?"
                rows = {key: connection.execute(query, (key,)).fetchone() for key in keys}
            return {key: row for key, row in rows.items() if row}
        except (sqlite3.Error, OSError) as error:
            self._forget(error)
            return {}

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            with closing(self._connect()) as connection, connection:
                connection.executemany(statement, rows)
        except (sqlite3.Error, OSError) as error:
            self._forget(error)

    def _forget(self, error: Exception) -> None:
        """Drop a memory that is no database any more; leave one that is only busy or read-only."""
        logger.warning("%s: %s; image files are hashed again", self.path, error)
        if type(error) is sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)


def _sound_row(content: bytes) -> tuple[bytes]:
    """Another decoder may find a fault where this one finds none."""
    return (DECODER.encode() + content,)


def _path_key(example: Example) -> str:
    column = f":{example.held.column}" if example.held else ""
    return f"{example.root}/{example.file}{column}"


def _identity(status: os.stat_result) -> str:
    """What changes when a file changes; empty where it changed so lately that it may again.

    The change time betrays a file that was swapped for one with a forged modification time.
    """
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NANOSECONDS:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _hash(example: Example) -> bytes | DataError:
    try:
        if example.held is not None:
            return hashlib.sha256(read(example)).digest()
        path, _ = locate(example)
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"{example.file!r} cannot be read: {error.strerror}")
