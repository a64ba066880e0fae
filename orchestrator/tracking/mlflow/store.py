"""Where MLflow keeps what it shows: a server, or by default a SQLite file in the sweep's folder."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import SweepPlan, load_plan
from orchestrator.support.commit_points import commit_point
from orchestrator.support.whole_file import put_in_place
from orchestrator.tracking.mlflow import private
from orchestrator.tracking.mlflow.server import MLFLOW_ENVIRONMENT

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"


def open_client(uri: str) -> "MlflowClient":
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    private.check_version()
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            # Their errors reach us as exceptions, and we say what follows from them.
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        _create_database(Path(uri.removeprefix("sqlite:///")))
    private.forget_known_places()
    return MlflowClient(uri)


def _create_database(path: Path) -> None:
    """MLflow's tables, all of them or no file: it cannot go on where it was killed halfway."""
    if path.exists():
        return
    # Not a `whole_path`, whose lock SQLite would meet on a network disk: only the owner of a sweep
    # writes here.
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.unlink(missing_ok=True)
    if private.make_tables(unfinished):
        commit_point("half mlflow")
        put_in_place(unfinished, path)


def artifact_location(uri: str, folder: Path | None) -> str | None:
    """Where the files of the sweep in `folder` go; None: a server decides."""
    if uri.startswith(("http", "databricks")):
        return None
    if folder is None and uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).parent
    return (folder / ARTIFACTS_FOLDER).resolve().as_uri() if folder else None


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
