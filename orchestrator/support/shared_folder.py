"""Files that can be made again, in a folder that processes of a node share and that stays bounded.

Whoever needs a file makes it while the others that need it wait; what was used longest ago goes
first when all of them are larger than the bound.
"""

import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.support.locks import exclusive
from orchestrator.support.whole_file import UNFINISHED, remove_left

logger = logging.getLogger(__name__)
T = TypeVar("T")


def found_or_made(path: Path, read: Callable[[], T | None], make: Callable[[], T]) -> T:
    """What `read` finds in the file at `path`; where that is None, what `make` makes of it.

    Only one process makes it at a time: the others wait, and then find it.
    """
    found = read()
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(_lock_of(path)):
            found = read()  # another process may have made it meanwhile
            if found is None:
                found = make()
    return found


def mark_used(path: Path) -> None:
    """What is marked last is evicted last. The kernel's own times are ticks apart."""
    with suppress(OSError):  # evicted just now, of another user, on a disk that is only read
        os.utime(path, ns=(time.time_ns(), time.time_ns()))


def evict(
    folder: Path, pattern: str, max_bytes: int, *, keep: Callable[[], Collection[Path]] = tuple
) -> None:
    """Delete the files in `folder` that were used longest ago, down to the bound.

    Not those to `keep`, nor those that are being made. What a killed process left half made goes.
    """
    files = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process evicts, too
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    kept = keep()
    for _, size, path in sorted(files):
        if total <= max_bytes:
            break
        if path not in kept and _deleted(path):
            total -= size
            logger.info("evicted %s", path)
    remove_left(folder, str(Path(pattern).with_name(UNFINISHED)))


def _deleted(path: Path) -> bool:
    """Processes that have mapped the file keep it until they let go of it."""
    with exclusive(_lock_of(path), wait=False) as locked:
        if locked:
            path.unlink(missing_ok=True)
    return locked


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")
