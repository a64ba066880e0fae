"""Locks of the kernel between processes: each ends with its owner, however that one ends.

The library `filelock` is not used: its locks of the kernel are never shared, as whoever only asks
whether somebody holds one needs them; it asks again and again where `exclusive` waits in the
kernel; and where a disk has no such locks it makes a mark, which outlives its process, of which
`owned` promises the opposite. What is left of it to us are the six lines of `take`.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def take(opened: IO[str] | IO[bytes] | int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock what was opened, until it is closed; False if another holds it and we do not `wait`.

    `shared` fails only where another holds it alone. Programs that we start do not inherit it.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(opened, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock that this file stands for; False if it is taken and we do not wait.

    The file stays: deleting it would let two in.
    """
    with path.open("ab") as file:
        yield take(file, wait=wait)
