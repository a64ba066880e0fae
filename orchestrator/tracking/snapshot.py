"""The databases of a sweep's folder, its storage and its trackers', for whoever only looks."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from orchestrator.record.copies import copied
from orchestrator.record.database import STORAGE_FILE
from orchestrator.tracking.trackers import local_databases


@contextmanager
def readable_databases(folder: Path) -> Iterator[Path]:
    """The folder itself, or one with copies where nothing may be written to it."""
    if not folder.is_dir() or os.access(folder, os.W_OK):
        yield folder
    else:
        with copied_databases(folder) as copies:
            yield copies


def copied_databases(folder: Path) -> AbstractContextManager[Path]:
    """A folder with copies of the databases that are there; gone when the block ends."""
    return copied(folder, [STORAGE_FILE, *local_databases()])
