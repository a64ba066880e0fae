"""PostgreSQL and MLflow for a cluster, on its head, under one supervisor.

Everything lies in one folder: the database with its password, MLflow's artifacts, backups, logs.
Both listen on this machine alone, unless a private address is given. The supervisor starts again
what ends, and what it started ends with it.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from orchestrator.cluster.postgres import Postgres, postgres_programs
from orchestrator.cluster.supervision import (
    STOP_SECONDS,
    StateFile,
    Supervised,
    spawn,
    stop_signals,
)
from orchestrator.support.extras import require
from orchestrator.support.loopback import is_free, is_healthy
from orchestrator.support.phases import phase
from orchestrator.support.waiting import last_lines, wait_until
from orchestrator.support.whole_file import whole_path, write_whole
from orchestrator.tracking.mlflow.server import server_command, server_environment

DATABASES = ("studies", "mlflow")
SETTINGS_FILE = "services.json"
STATE_FILE = "state.json"
ENVIRONMENT_FILE = "environment"
ARTIFACTS_FOLDER = "artifacts"
_RESTORING = "restoring"
"""While this file is there, the databases are not whole."""

START_SECONDS = 300
START_ATTEMPTS = 3
"""A service that had to be started so often while it was waited for will not come up."""
FREE_SECONDS = 10
"""Ports of a supervisor that died may just be getting free."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Chosen when the services are started first, and kept in their folder."""

    host: str = "127.0.0.1"
    postgres_port: int = 5432
    mlflow_port: int = 5000
    artifacts: str | None = None
    """Folder or bucket (s3://...) of MLflow's artifacts; None: in the services' folder."""


class Services:
    """The services of one folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder.expanduser().absolute()
        self.settings = settings
        self.postgres = Postgres(
            folder=self.folder, host=settings.host, port=settings.postgres_port
        )
        self._state = StateFile(self.folder / STATE_FILE)
        self._supervisor: subprocess.Popen[Any] | None = None
        self._made_databases = False

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Those that were started in `folder` before; ValueError if none were."""
        path = folder.expanduser() / SETTINGS_FILE
        if not path.is_file():
            raise ValueError(f"{folder}: holds no services; start them with: services start")
        return cls(folder, Settings(**json.loads(path.read_text())))

    @property
    def storage_url(self) -> str:
        """The address of the studies' database. The password stays in its file."""
        return self.postgres.url("studies")

    @property
    def tracking_uri(self) -> str:
        return f"http://{self.settings.host}:{self.settings.mlflow_port}"

    @property
    def artifacts(self) -> str:
        return self.settings.artifacts or str(self.folder / ARTIFACTS_FOLDER)

    def start(self, *, backup: Path | None = None) -> None:
        """Start what does not run; returns when both answer. `backup` is what they begin with."""
        require("postgres", "psycopg", what="a sweep or MLflow with PostgreSQL")
        if self.artifacts.startswith("s3://"):
            require("cluster", "boto3", what=f"writing to {self.artifacts}")
        if not (self.folder / SETTINGS_FILE).exists():
            self._create(backup)
        elif backup is not None:
            raise ValueError(f"{self.folder}: holds data already; restore into an empty folder")
        elif (self.folder / _RESTORING).exists():
            raise ValueError(f"{self.folder}: a restore did not finish here; remove it, try again")
        if self.supervisor_pid() is None:
            self._refuse_taken_ports()
            with (self.folder / "supervisor.log").open("ab") as log:
                self._supervisor = subprocess.Popen(  # noqa: S603 (our own interpreter)
                    [sys.executable, "-m", "orchestrator.cluster.services", str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        try:
            self._wait("PostgreSQL", "postgres", self.postgres.answers)
            if backup is not None:
                self._restore(backup)
                (self.folder / _RESTORING).unlink()
            self._wait("MLflow", "mlflow", self._mlflow_answers)
        except BaseException:
            if self._supervisor is not None:  # started by this very command: nothing is left
                if not self.stop():  # it has not come to take the folder
                    self._supervisor.terminate()
                self._supervisor.wait()
            raise

    def stop(self) -> bool:
        """Stop both in order; False if they did not run."""
        pid = self.supervisor_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        seconds = 2 * STOP_SECONDS
        if not wait_until(lambda: self.supervisor_pid() is None, seconds=seconds, pause=0.1):
            raise ValueError(f"{self.folder}: process {pid} did not stop in {seconds} s")
        return True

    def status(self) -> dict[str, dict[str, Any]]:
        """By service: address, whether it answers, process and number of starts."""
        state = self._state.read() if self.supervisor_pid() is not None else {}
        return {
            "postgres": {
                "address": self.storage_url,
                "answers": self.postgres.answers(),
                **state.get("postgres", {}),
            },
            "mlflow": {
                "address": self.tracking_uri,
                "answers": self._mlflow_answers(),
                **state.get("mlflow", {}),
            },
        }

    def backup(self, path: Path | None = None) -> Path:
        """Both databases and the artifacts of this machine, in one file, while all goes on."""
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        path = (path or self.folder / "backups" / f"{now}.tar").absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=path.parent) as scratch,
            whole_path(path, mode=0o600) as unfinished,
        ):
            for database in DATABASES:
                self.postgres.dump(database, Path(scratch, f"{database}.dump"))
            with tarfile.open(unfinished, "w") as archive:
                for database in DATABASES:
                    archive.add(Path(scratch, f"{database}.dump"), f"{database}.dump")
                if self.settings.artifacts is None and Path(self.artifacts).is_dir():
                    archive.add(self.artifacts, ARTIFACTS_FOLDER)
        return path

    def supervisor_pid(self) -> int | None:
        """The process that holds the folder, if there is one."""
        return self._state.supervisor_pid()

    def supervise(self) -> None:
        """Keep both running until a signal says to stop."""
        with self._state.held() as write_state, stop_signals() as stopped:
            postgres = Supervised("postgres", self._start_postgres, stop_signal=signal.SIGINT)
            mlflow = Supervised("mlflow", self._start_mlflow, stop_signal=signal.SIGTERM)
            try:
                while not stopped.is_set():
                    changed = postgres.keep_running()
                    if postgres.is_running and self._has_databases():
                        changed |= mlflow.keep_running()
                    if changed:
                        write_state((postgres, mlflow))
                    stopped.wait(0.5)
            finally:
                mlflow.stop()  # first: it writes into the other
                postgres.stop()

    def _create(self, backup: Path | None) -> None:
        if backup is not None and not backup.is_file():
            raise ValueError(f"{backup}: there is no such backup")
        postgres_programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.postgres.create()
        environment = {
            "ORCHESTRATOR_STORAGE": self.storage_url,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
        }
        lines = [f"export {name}='{value}'\n" for name, value in environment.items()]
        write_whole(self.folder / ENVIRONMENT_FILE, "".join(lines).encode())
        if backup is not None:
            (self.folder / _RESTORING).touch()
        # Last: with this file the folder counts as made.
        settings = json.dumps(asdict(self.settings), indent=2)
        write_whole(self.folder / SETTINGS_FILE, settings.encode())

    def _restore(self, backup: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            with tarfile.open(backup) as archive:
                archive.extractall(scratch, filter="data")
            for database in DATABASES:
                self.postgres.restore(database, Path(scratch, f"{database}.dump"))
            kept = Path(scratch, ARTIFACTS_FOLDER)
            if kept.is_dir():
                kept.replace(self.folder / ARTIFACTS_FOLDER)

    def _start_postgres(self) -> subprocess.Popen[Any]:
        command, account = self.postgres.command()
        return spawn(command, self.folder / "postgres.log", signal.SIGINT, **account)

    def _start_mlflow(self) -> subprocess.Popen[Any]:
        settings, database = self.settings, self.postgres.url("mlflow")
        command = server_command(database, self.artifacts, settings.host, settings.mlflow_port)
        log = self.folder / "mlflow.log"
        return spawn(command, log, signal.SIGTERM, env=server_environment())

    def _has_databases(self) -> bool:
        if self._made_databases:
            return True
        if not self.postgres.answers() or (self.folder / _RESTORING).exists():
            return False
        self.postgres.make_missing(DATABASES)
        self._made_databases = True
        return True

    def _mlflow_answers(self) -> bool:
        return is_healthy(self.tracking_uri, timeout_seconds=5)

    def _starts_by_us(self, service: str) -> int:
        """How often the supervisor that we started had to start it."""
        state = self._state.read()
        if self._supervisor is None or state.get("pid") != self._supervisor.pid:
            return 0  # what an earlier one left
        return state.get(service, {}).get("starts", 0)

    def _refuse_taken_ports(self) -> None:
        host = self.settings.host
        ports = {"PostgreSQL": self.settings.postgres_port, "MLflow": self.settings.mlflow_port}
        for name, port in ports.items():
            if not wait_until(lambda port=port: is_free(host, port), seconds=FREE_SECONDS):
                raise ValueError(f"port {port} of {host}, for {name}, is taken or not ours to use")

    def _wait(self, name: str, service: str, answers: Callable[[], bool]) -> None:
        def died() -> bool:
            return self._supervisor is not None and self._supervisor.poll() is not None

        def hopeless() -> bool:
            return died() or self._starts_by_us(service) >= START_ATTEMPTS

        with phase(f"{name} is starting"):
            answered = wait_until(answers, seconds=START_SECONDS, pause=0.3, hopeless=hopeless)
        if not answered:
            log = self.folder / ("supervisor.log" if died() else f"{service}.log")
            tail = last_lines(log.read_bytes())
            raise ValueError(f"{name} does not answer; {log} ends with:\n{tail}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Services.open(Path(sys.argv[1])).supervise()
