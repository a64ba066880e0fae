"""A place at which a process waits: it stands still between two known lines of ours."""

import fcntl
import os
import select
from pathlib import Path

from orchestrator.support.commit_points import GATES


class Gate:
    """A pipe at a commit point: who comes by in `environment` waits until the gate is opened."""

    def __init__(self, folder: Path, where: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {GATES: str(folder)}
        self._path = folder / where
        os.mkfifo(self._path)
        self._pipe = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, 4096)  # less than is written into it

    def is_reached(self) -> bool:
        return bool(select.select([self._pipe], [], [], 0)[0])

    def open(self) -> None:
        """Once and for all: who waits goes on, and nobody waits any more."""
        if self._path.exists():
            self._path.unlink()
            os.set_blocking(self._pipe, True)
            while os.read(self._pipe, 1 << 16):
                pass
            os.close(self._pipe)
