"""One driver per sweep folder: a second one is refused and told who the first is."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.plan import PLAN_FILE

LOCK_FILE = ".owner"


def claim_folder(folder: Path) -> Path:
    """A new, empty sweep folder; ValueError if there is something in it already."""
    if (folder / PLAN_FILE).exists():
        raise ValueError(
            f"{folder}: belongs to another sweep; `orchestrator resume {folder}` goes on with it, "
            "or choose another --out"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty and is not a sweep; choose another --out")
    return folder


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the sweep in `folder`; ValueError names the process that holds it already.

    The lock is the kernel's, so that it ends with its process, however that ends.
    """
    path = folder / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(f"{folder}: is being run by {_describe(file.read())}") from None
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        yield


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
