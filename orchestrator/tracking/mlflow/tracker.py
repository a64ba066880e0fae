"""MLflow as a tracker: a server, a database, or by default a SQLite file in the sweep's folder."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.database import sqlite_address
from orchestrator.support.addresses import redacted
from orchestrator.tracking.backend import Check, Pages, TrackingError
from orchestrator.tracking.mlflow.places import sentence, set_addresses, wrong_addresses
from orchestrator.tracking.mlflow.server import MLFLOW_ENVIRONMENT
from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER, MLFLOW_FILE

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow.runs import MLflowRuns

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


class MLflow:
    """The tracker that ships."""

    name = "MLflow"
    variable = "MLFLOW_TRACKING_URI"
    local_databases = (MLFLOW_FILE,)

    def address(self, folder: Path) -> str:
        """`$MLFLOW_TRACKING_URI`, or the SQLite file of the sweep folder."""
        uri = os.environ.get(self.variable)
        if not uri:
            return sqlite_address(folder / MLFLOW_FILE)
        if not self.has(uri):
            raise ValueError(
                f"{self.variable}={redacted(uri)}: expected the address of a server (http://...) "
                "or of a database (sqlite:///..., postgresql://...); MLflow writes no plain "
                "folders any more"
            )
        return uri

    def has(self, address: str) -> bool:
        return address.partition(":")[0].partition("+")[0] in _SCHEMES

    def open(self, plan: SweepPlan, address: str, folder: Path | None = None) -> "MLflowRuns":
        from orchestrator.tracking.mlflow.runs import MLflowRuns

        return MLflowRuns(plan, address, folder)

    def reach(self, address: str) -> str:
        if not address.startswith("http"):
            return f"{redacted(address)} is written to directly"
        seconds = float(MLFLOW_ENVIRONMENT["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=seconds):  # noqa: S310
                return f"{redacted(address)} answers"
        except (urllib.error.URLError, OSError) as error:
            raise ValueError(f"{redacted(address)} does not answer: {error}") from None

    def in_copy(self, address: str, folder: Path, copies: Path) -> str:
        own = sqlite_address(folder / MLFLOW_FILE)
        return sqlite_address(copies / MLFLOW_FILE) if address == own else address

    def examine_folder(self, address: str, folder: Path, databases: Path) -> Iterator[Check]:
        """The addresses of files in the folder's own database; in a copy of it, they are set."""
        database = databases / MLFLOW_FILE
        if address != sqlite_address(database) or not database.is_file():
            return  # others may share it
        artifacts = folder / ARTIFACTS_FOLDER
        try:
            wrong = wrong_addresses(database, artifacts)
            for group in ([a for a in wrong if not a.foreign], [a for a in wrong if a.foreign]):
                told = sentence(group) if group else ""
                yield Check(not group, f"{folder / MLFLOW_FILE}: {told}", "repair")
            if databases != folder:
                set_addresses(database, artifacts)
        except TrackingError as error:
            yield Check(False, str(error), "move it away, then repair")

    def pages(
        self, sweeps: Mapping[Path, SweepPlan], host: str, port: int
    ) -> AbstractContextManager[Pages]:
        from orchestrator.tracking.mlflow.pages import pages

        return pages(sweeps, self.address, host, port)
