"""A file at which a process waits: it stands still between two known lines of ours."""

import fcntl
import os
import select
from pathlib import Path


class Gate:
    """A pipe where a checkpoint is to be written: the writer waits until the gate is opened."""

    def __init__(self, part: Path) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(part)
        self._path = part
        self._pipe = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, 4096)  # less than any checkpoint

    def is_reached(self) -> bool:
        return bool(select.select([self._pipe], [], [], 0)[0])

    def open(self) -> None:
        """Once and for all; the writer is told that a pipe is no disk, and goes on without."""
        if self._path.exists():
            self._path.unlink()
            os.set_blocking(self._pipe, True)
            while os.read(self._pipe, 1 << 16):
                pass
            os.close(self._pipe)
