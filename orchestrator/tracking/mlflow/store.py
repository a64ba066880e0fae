"""Where MLflow keeps what it shows: a server, or by default a SQLite file in the sweep's folder."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import SweepPlan, load_plan
from orchestrator.record.database import sqlite_address
from orchestrator.support.addresses import redacted
from orchestrator.support.commit_points import commit_point
from orchestrator.tracking.mlflow.server import MLFLOW_ENVIRONMENT

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


class TrackingError(Exception):
    """MLflow could not be written to; the message holds no credentials."""


def tracking_uri(folder: Path) -> str:
    """`$MLFLOW_TRACKING_URI`, or the SQLite file of the sweep folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return sqlite_address(folder / MLFLOW_FILE)
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ValueError(
            f"MLFLOW_TRACKING_URI={redacted(uri)}: expected the address of a server (http://...) "
            "or of a database (sqlite:///..., postgresql://...); MLflow writes no plain folders "
            "any more"
        )
    return uri


def open_client(uri: str) -> "MlflowClient":
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service import utils

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            # Their errors reach us as exceptions, and we say what follows from them.
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        _create_database(Path(uri.removeprefix("sqlite:///")))
    # By run alone MLflow remembers in a process where files go: also those of a copy of the sweep.
    getattr(utils, "_artifact_repos_cache", {}).clear()
    return MlflowClient(uri)


def _create_database(path: Path) -> None:
    """MLflow's tables, all of them or no file: it cannot go on where it was killed halfway."""
    if path.exists():
        return
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    unfinished = path.with_name(f"{path.name}.part")
    unfinished.unlink(missing_ok=True)
    engine = sqlalchemy.create_engine(f"sqlite:///{unfinished}")
    _initialize_tables(engine)
    engine.dispose()
    commit_point("half mlflow")
    unfinished.replace(path)


def artifact_location(uri: str, artifacts: Path | None) -> str | None:
    """Where the experiment's files go; None: a server decides."""
    if uri.startswith(("http", "databricks")):
        return None
    if artifacts is None and uri.startswith("sqlite:///"):
        artifacts = Path(uri.removeprefix("sqlite:///")).parent / ARTIFACTS_FOLDER
    return artifacts.resolve().as_uri() if artifacts else None


def own_database(uri: str, plan: SweepPlan) -> Path | None:
    """The database in this sweep's own folder, or a copy's; None for any other: it is others', too.

    `$MLFLOW_TRACKING_URI` may name the database in the folder of another sweep.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.name != MLFLOW_FILE or not path.is_file():
        return None
    try:
        beside = load_plan(path.parent)
    except ValueError:  # no sweep's folder
        return None
    return path if (beside.name, beside.created) == (plan.name, plan.created) else None


def missing_files(client: "MlflowClient", run_id: str, names: Sequence[str]) -> list[str]:
    """Those of the artifacts of a run that are not there, or empty."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in names)
    there = {
        entry.path
        for folder in folders
        for entry in client.list_artifacts(run_id, folder or None)
        if entry.is_dir or entry.file_size
    }
    return [name for name in names if name not in there]
