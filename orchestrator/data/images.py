"""Image files, read as if somebody had prepared them against us."""

import hashlib
import io
import logging
import os
import sqlite3
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image

from orchestrator.data.task import DataError, Example
from orchestrator.data.transform import MAX_PIXELS

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

MAX_FILE_BYTES = 1 << 30
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Raster formats that PIL decodes itself; EPS, for one, would start an interpreter."""

_DEEP_MODES = ("I", "F")

_SETTLED_NANOSECONDS = 2_000_000_000
"""A file changed later than this before it was hashed may change again within one clock tick."""


def checked_path(example: Example) -> str:
    """The real path of an example's image: a regular file of bounded size inside its root."""
    root = os.path.realpath(example.root)
    path = os.path.realpath(os.path.join(root, example.file))  # noqa: PTH118
    if not path.startswith(root + os.sep):
        raise DataError(f"{example.file!r} leads out of the task's folder {root}, to {path}")
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise DataError(f"{example.file!r} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{example.file!r} is not a regular file")
    if status.st_size == 0:
        raise DataError(f"{example.file!r} is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise DataError(f"{example.file!r} has {status.st_size:,} bytes, more than any image needs")
    return path


def read(example: Example) -> bytes:
    try:
        return Path(checked_path(example)).read_bytes()
    except OSError as error:
        raise DataError(f"{example.file!r} cannot be read: {error.strerror}") from error


def decode(data: bytes, name: str) -> Image.Image:
    """The pixels, loaded; the mode is the file's own.

    `convert("RGB")` follows in the transform, as in the papers' code: grey is repeated, a palette
    looked up, transparency dropped and not blended, and an EXIF orientation is not applied.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit on the size follows, as an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{name!r} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
            )
        if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
            raise DataError(
                f"{name!r} has more than 8 bits per channel (mode {image.mode}), which conversion "
                "to RGB would clip; save it with 8 bits"
            )
        image.load()
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name!r} has too many pixels: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name!r} is not an image in one of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise DataError(f"{name!r} is a broken image: {error}") from error
    return image


def decode_fault(example: Example) -> str | None:
    """Why this image cannot be decoded, if it cannot."""
    try:
        decode(read(example), example.file)
    except DataError as error:
        return str(error)
    return None


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
        remembered = self._recall({self._key(example) for example in examples})
        results = list(parallel_map(lambda example: self._hash(example, remembered), examples))
        self.hashed_files += sum(is_new for _, _, is_new in results)
        fresh = [
            (self._key(example), identity, digest)
            for example, (identity, digest, is_new) in zip(examples, results, strict=True)
            if is_new and identity
        ]
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", fresh)
        return [digest for _, digest, _ in results]

    def of_sound_images(self, contents: Iterable[bytes]) -> set[bytes]:
        """Those of the contents that were decoded before."""
        try:
            with closing(self._connect()) as connection:
                query = "SELECT 1 FROM sound WHERE sha256 = ?"
                return {one for one in contents if connection.execute(query, (one,)).fetchone()}
        except (sqlite3.Error, OSError) as error:
            self._forget(error)
            return set()

    def remember_sound_images(self, contents: Iterable[bytes]) -> None:
        self._write("INSERT OR IGNORE INTO sound VALUES (?)", [(one,) for one in contents])

    @staticmethod
    def _key(example: Example) -> str:
        return f"{example.root}/{example.file}"

    def _hash(
        self, example: Example, remembered: dict[str, tuple[str, bytes]]
    ) -> tuple[str, bytes | DataError, bool]:
        try:
            path = checked_path(example)
            status = os.stat(path)  # noqa: PTH116
            # The change time betrays a file swapped for one with a forged modification time.
            identity = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            known = remembered.get(self._key(example))
            if known and known[0] == identity:
                return identity, known[1], False
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except DataError as error:
            return "", error, False
        except OSError as error:
            message = f"{example.file!r} cannot be read: {error.strerror}"
            return "", DataError(message), False
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
        return identity if settled > _SETTLED_NANOSECONDS else "", digest, True

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, identity TEXT, sha256 BLOB)"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS sound (sha256 BLOB PRIMARY KEY)")
        return connection

    def _recall(self, keys: set[str]) -> dict[str, tuple[str, bytes]]:
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
