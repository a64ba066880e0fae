"""A private folder for what a driver needs while it lives, and what killed drivers left of theirs.

The folder is locked by the kernel for as long as its driver lives. Whoever starts next removes the
folders of this user that nobody holds, and ends the processes that were started with them. Where
machines share a place, a lock may be seen by its own machine alone: each removes only its own.
"""

import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.support.locks import take

VARIABLE = "ORCHESTRATOR_SCRATCH"
"""In the environment of all that a driver starts: its folder."""

LONGEST_PARENT = 17
"""Bytes: a socket's path has at most 107, of which Ray takes 66 and the folder in it 24."""

_NAME = re.compile(r"orchestrator-[a-z0-9_]{8}")
_UNFINISHED = ".orchestrator-"
_MARK = "of-a-driver"
"""A file in each: the machine's name, and which of its starts it is, in a line each."""
_OLD_NAME = re.compile(r"orchestrator-tune-[a-z0-9_]{8}")
"""The name of folders as drivers left them before they had folders that are locked, and said of
which machine."""
_OF_ONE_MACHINE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108


class Scratch:
    """A folder of this process alone: mode 0700, held until it is removed."""

    def __init__(self) -> None:
        problems = []
        for place in places():
            if _is_usable(place):
                try:
                    self.path, self._lock = _made_in(place)
                except OSError as error:  # full, or of a file system without locks
                    problems.append(f" ({place}: {error.strerror})")
                else:
                    return
        raise ValueError(
            "found no folder for temporary files that may be written to and locked, and whose path "
            f"has at most {LONGEST_PARENT} bytes{''.join(problems)}; set RAY_TMPDIR to one"
        )

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
        # Another that starts now may have removed it since.
        with contextlib.suppress(OSError), _held(folder) as held:
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
            return path.parent in _OF_ONE_MACHINE and not _runs_since(about.st_mtime)
        with _held(path) as held:
            return held and _was_made_here(path / _MARK)
    return False


def _made_in(place: Path) -> tuple[Path, int]:
    """A folder and its lock; OSError where it cannot be made or locked."""
    made = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place))
    lock = None
    try:
        (made / _MARK).write_text("\n".join(_machine()))
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        take(lock, wait=True)
        # Only now it has a name under which others look for folders that nobody holds.
        return made.rename(place / made.name[1:]), lock
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        raise


def _was_made_here(mark: Path) -> bool:
    """By this machine, at whose locks we look; an earlier start of it left none."""
    host, _, start = mark.read_text(errors="replace").partition("\n")
    here, this_start = _machine()
    if host != here:
        return False
    # What is younger than this start, and of another, is of another machine of the same name.
    return start == this_start or mark.stat().st_mtime < psutil.boot_time()


def _machine() -> tuple[str, str]:
    start = ""
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname(), start


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether nobody holds it; until the end of the block, we do."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield take(lock)
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
