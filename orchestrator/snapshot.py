"""Copies of a sweep's databases, for whoever only looks: opening a database may write to it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.mlflow_store import MLFLOW_FILE
from orchestrator.storage import STORAGE_FILE

_UNFINISHED = ("", "-journal", "-wal")
"""Beside the database, what was not yet written into it when its process died."""


@contextmanager
def readable_databases(folder: Path) -> Iterator[Path]:
    """The folder itself, or one with copies where nothing may be written to it."""
    if not folder.is_dir() or os.access(folder, os.W_OK):
        yield folder
    else:
        with copied_databases(folder) as copies:
            yield copies


@contextmanager
def copied_databases(folder: Path) -> Iterator[Path]:
    """A folder with copies of the databases that are there; gone when the block ends.

    Nobody may be writing to them.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrator-look-") as scratch:
        for name in (STORAGE_FILE, MLFLOW_FILE):
            for ending in _UNFINISHED:
                if (folder / f"{name}{ending}").is_file():
                    shutil.copyfile(folder / f"{name}{ending}", Path(scratch, f"{name}{ending}"))
        yield Path(scratch)
