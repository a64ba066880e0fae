"""Files that are complete and on the disk, or not there at all, and never written through a link.

Until it is complete a file is called `<name>.<eight digits>.part`: beside its place, so that it can
be moved there in one step, and under a name of its own, so that no two writers meet in it. Its
writer holds it by a lock: what a killed one left is known by it, and goes when the same file is
written again; `UNFINISHED` is how others find it.

A sweep folder may come from a stranger: no file that stands there is opened for writing, since it
may be a link to a file of whoever looks at the sweep.
"""

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.support.locks import take

UNFINISHED = "*.part"
"""The ending of files that are being written, or were when their writer died; once they had no
digits."""

ENDING_BYTES = len(".12345678.part")
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an error.

    ValueError where a device, a pipe or a folder has that name.
    """
    with _begun(path) as (_, descriptor), os.fdopen(descriptor, "wb", closefd=False) as file:
        yield file


@contextmanager
def whole_path(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """The same for a library that opens the file itself: an empty one, which it may write over.

    Not for one that locks it: on a network disk it would meet our lock. `mode` is what the file
    may be opened for from the moment that it is there, less the umask.
    """
    with _begun(path, mode) as (unfinished, _):
        yield unfinished


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and the folder that it is to be in where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


def put_in_place(complete: Path, path: Path) -> None:
    """Give a file that was written beside `path` its name; both survive a power cut."""
    _sync(complete)
    complete.replace(path)
    _sync(path.parent)


def remove_left(folder: Path, pattern: str = UNFINISHED) -> None:
    """Remove what writers that are gone left unfinished in a folder."""
    for left in folder.glob(pattern):
        with suppress(OSError):  # finished or removed just now; no file, or not ours to remove
            descriptor = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if take(descriptor):
                    left.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def _begun(path: Path, mode: int = 0o666) -> Iterator[tuple[Path, int]]:
    """The unfinished file and its open descriptor, by whose lock others know that we live."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is there already and is no file, so no file can take its place")
    remove_left(path.parent, f"{glob.escape(path.name)}.{UNFINISHED}")
    unfinished, descriptor = _created_beside(path, mode)
    try:
        yield unfinished, descriptor
        put_in_place(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _created_beside(path: Path, mode: int) -> tuple[Path, int]:
    while True:
        # Digits, since a failure is known again by its words, whatever the numbers in it.
        unfinished = path.with_name(f"{path.name}.{secrets.randbelow(10**8):08}.part")
        descriptor = os.open(unfinished, _NEW, mode)
        with suppress(OSError):  # a disk without locks, where nothing that is left is removed
            take(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return unfinished, descriptor
        os.close(descriptor)  # removed by another before we held it


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_SYNC_OF_FOLDERS):
            raise
    finally:
        os.close(descriptor)
