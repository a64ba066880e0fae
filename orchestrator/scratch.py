"""A private folder for what a driver needs while it lives, and what killed drivers left of theirs.

The folder is locked by the kernel for as long as its driver lives. Whoever starts next removes the
folders of this user that nobody holds, and ends the processes that were started with them.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

VARIABLE = "ORCHESTRATOR_SCRATCH"
"""In the environment of all that a driver starts: its folder."""

LONGEST_PARENT = 17
"""Bytes: a socket's path has at most 107, of which Ray takes 66 and the folder in it 24."""

_NAME = re.compile(r"orchestrator-[a-z0-9_]{8}")
_UNFINISHED = ".orchestrator-"
_MARK = "of-a-driver"
_OLD_NAME = re.compile(r"orchestrator-tune-[a-z0-9_]{8}")
"""As drivers left them before they had folders that are locked."""


class Scratch:
    """A folder of this process alone: mode 0700, held until it is removed."""

    def __init__(self) -> None:
        parent = next((place for place in places() if _is_usable(place)), None)
        if parent is None:
            raise ValueError(
                "found no folder for temporary files that may be written to and whose path has at "
                f"most {LONGEST_PARENT} bytes; set RAY_TMPDIR to one"
            )
        made = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        (made / _MARK).touch()
        self._lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only now it has a name under which others look for folders that nobody holds.
        self.path = made.rename(parent / made.name[1:])

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def is_name_of_scratch(name: str) -> bool:
    """Whether a folder of this name is one of these, by the look of it."""
    return _NAME.fullmatch(name) is not None


def places() -> list[Path]:
    """Where such folders may be, the preferred first."""
    asked = os.environ.get("RAY_TMPDIR")
    if asked:
        with contextlib.suppress(OSError):  # as Ray would; what cannot be is not used
            Path(asked).mkdir(parents=True, exist_ok=True)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    found = [asked, tempfile.gettempdir(), "/tmp", "/var/tmp", runtime]  # noqa: S108
    return [Path(place).absolute() for place in dict.fromkeys(found) if place]


def remove_dead() -> list[Path]:
    """Remove the folders of drivers of this user that are gone, and end what they left running."""
    removed = []
    for folder in dead():
        with _held(folder) as held:
            if held:
                _end_processes_of(folder)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def dead() -> list[Path]:
    """Folders of drivers of this user that are gone."""
    found = []
    for place in places():
        with contextlib.suppress(OSError):
            found += [path for path in sorted(place.iterdir()) if _is_dead(path)]
    return found


def _is_dead(path: Path) -> bool:
    if not (_NAME.fullmatch(path.name) or _OLD_NAME.fullmatch(path.name)):
        return False
    with contextlib.suppress(OSError):
        about = path.lstat()  # a link may lead anywhere
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return False
        if _OLD_NAME.fullmatch(path.name):
            return not _runs_since(about.st_mtime)
        with _held(path) as held:
            return held and (path / _MARK).is_file()
    return False


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether nobody holds it; until the end of the block, we do."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _is_usable(place: Path) -> bool:
    fits = len(os.fsencode(place)) <= LONGEST_PARENT
    return fits and place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _end_processes_of(folder: Path) -> None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(VARIABLE) == str(folder) and process.pid != os.getpid():
                process.kill()


def _runs_since(moment: float) -> bool:
    """Whether another of our commands runs that is older, and may have made what was made then."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            started = process.create_time() <= moment and process.pid != os.getpid()
            if started and any("orchestrator" in word for word in process.cmdline()):
                return True
    return False
