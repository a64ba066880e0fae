"""Files that are complete and on the disk, or not there at all, and never written through a link.

Until it is complete a file is called `<name>.<eight digits>.part`: beside its place, so that it can
be moved there in one step, and under a name of its own, so that no two writers meet in it. A
writer that is killed leaves it behind; `UNFINISHED` is how whoever cleans up finds it.

A sweep folder may come from a stranger: no file that stands there is opened for writing, since it
may be a link to a file of whoever looks at the sweep.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = "*.part"
"""Of files that are being written, or were when their writer died (before 0.2, without digits)."""

ENDING_BYTES = len(".12345678.part")
_NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an error.

    ValueError where a device, a pipe or a folder has that name.
    """
    with whole_path(path) as unfinished:
        created = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with os.fdopen(created, "wb") as file:
            yield file


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and the folder that it is to be in where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """The same for a library that opens the file itself, by a name that nothing has yet."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is there already and is no file, so no file can take its place")
    # Digits, since a failure is known again by its words, whatever the numbers in it.
    unfinished = path.with_name(f"{path.name}.{secrets.randbelow(10**8):08}.part")
    try:
        yield unfinished
        put_in_place(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def put_in_place(complete: Path, path: Path) -> None:
    """Give a file that was written beside `path` its name; both survive a power cut."""
    _sync(complete)
    complete.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_SYNC_OF_FOLDERS):
            raise
    finally:
        os.close(descriptor)
