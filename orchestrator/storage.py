"""Where the record of a sweep is kept: a database, by default a SQLite file in its folder."""

from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, RDBStorage, get_storage

STORAGE_FILE = "studies.db"


def default_storage(folder: Path) -> str:
    """The address of a sweep folder's own database."""
    return f"sqlite:///{folder.absolute() / STORAGE_FILE}"


def open_storage(url: str) -> BaseStorage:
    """The database at an SQLAlchemy address, with Optuna's tables in it."""
    options: dict[str, Any] = {}
    if url.startswith("sqlite:"):
        options = {"connect_args": {"timeout": 60}}
    return get_storage(RDBStorage(url, engine_kwargs=options))
