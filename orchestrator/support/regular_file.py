"""Reading of files that a stranger may have put there: never a device, a pipe, or without end."""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


@contextmanager
def opened_regular(
    path: Path, *, most_bytes: int, follow_link: bool = True
) -> Generator[BufferedReader, None, None]:
    """A file to read from. ValueError if it is none, or larger than `most_bytes`.

    A link is followed where the user typed the path; inside of a folder that came from elsewhere
    it may lead to any file of the machine. FileNotFoundError where there is nothing.
    """
    # Without O_NONBLOCK the opening of a pipe waits for somebody who writes.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_link else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_link:
            raise ValueError(f"{path}: is a symbolic link, which is not followed here") from None
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null character
        raise ValueError(f"{str(path)!r}: is not a path") from error
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path}: is {_kind(about.st_mode)}, not a file")
    with os.fdopen(descriptor, "rb") as file:
        if about.st_size > most_bytes:
            raise ValueError(
                f"{path}: has {about.st_size:,} bytes; a file of this kind has at most "
                f"{most_bytes:,}"
            )
        yield file


def read_regular(path: Path, *, most_bytes: int, follow_link: bool = True) -> bytes:
    """The content of a file, as `opened_regular` opens it."""
    with opened_regular(path, most_bytes=most_bytes, follow_link=follow_link) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > size:
        raise ValueError(f"{path}: grows while it is read")
    return content


def refuse_links(folder: Path) -> None:
    """ValueError if what lies directly in `folder` is a link; the folder itself may be one.

    Everything of a sweep is opened below its folder. A sweep that was copied from elsewhere must
    not make us read, or write, what its links lead to.
    """
    with os.scandir(folder) as entries:
        links = sorted(entry.name for entry in entries if entry.is_symlink())
    if links:
        raise ValueError(
            f"{folder}: {', '.join(map(repr, links[:5]))}: symbolic links, and a sweep folder is "
            "opened without following any; put there what they lead to, or take them away"
        )


def refuse_links_within(folder: Path) -> None:
    """ValueError if anything in `folder`, however deep, is a symbolic link.

    For whoever is going to write there, or to hand out what lies there.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                raise ValueError(
                    f"{path}: is a symbolic link, and what lies in a sweep folder is opened "
                    "without following any; put there what it leads to, or take it away"
                )


def refuse_link_below(folder: Path, path: Path) -> None:
    """ValueError if a step of the way from `folder` down to `path` is a symbolic link."""
    step = folder
    for part in path.relative_to(folder).parts:
        step = step / part
        if step.is_symlink():
            raise ValueError(f"{step}: is a symbolic link, which is not followed here")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
