"""PostgreSQL and MLflow for a cluster, on its head, under one supervisor.

Everything lies in one folder: the database with its password, MLflow's artifacts, backups, logs.
Both listen on this machine alone, unless a private address is given. The supervisor starts again
what ends, and what it started ends with it.
"""

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from orchestrator.support.extras import require
from orchestrator.support.loopback import is_free, is_healthy
from orchestrator.support.whole_file import whole_path
from orchestrator.tracking.mlflow.server import server_command, server_environment

logger = logging.getLogger(__name__)

USER = "orchestrator"
DATABASES = ("studies", "mlflow")
SETTINGS_FILE = "services.json"
STATE_FILE = "state.json"
ENVIRONMENT_FILE = "environment"
ARTIFACTS_FOLDER = "artifacts"
_RESTORING = "restoring"
"""While this file is there, the databases are not whole."""

MAX_CONNECTIONS = 300
"""MLflow's four workers may hold 60, a sweep a few; PostgreSQL's own limit of 100 is near that."""

START_SECONDS = 300
START_ATTEMPTS = 3
"""A service that had to be started so often while it was waited for will not come up."""
STOP_SECONDS = 60
LONGEST_PAUSE_SECONDS = 30.0
"""Between two starts of a service that ends again and again."""

_PR_SET_PDEATHSIG = 1


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
        """Of the studies. The password stays in its file."""
        return self._database_url("studies")

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
            self._wait("PostgreSQL", "postgres", self._postgres_answers)
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
        deadline = time.monotonic() + STOP_SECONDS
        while self.supervisor_pid() is not None:
            if time.monotonic() > deadline:
                raise ValueError(f"{self.folder}: process {pid} did not stop in {STOP_SECONDS} s")
            time.sleep(0.1)
        return True

    def status(self) -> dict[str, dict[str, Any]]:
        """By service: address, whether it answers, process and number of starts."""
        state = self._read_state() if self.supervisor_pid() is not None else {}
        return {
            "postgres": {
                "address": self.storage_url,
                "answers": self._postgres_answers(),
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
            whole_path(path) as unfinished,
        ):
            for database in DATABASES:
                dump = Path(scratch, f"{database}.dump")
                self._postgres_program("pg_dump", "--format=custom", f"--file={dump}", database)
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with tarfile.open(unfinished, "w") as archive:
                for database in DATABASES:
                    archive.add(Path(scratch, f"{database}.dump"), f"{database}.dump")
                if self.settings.artifacts is None and Path(self.artifacts).is_dir():
                    archive.add(self.artifacts, ARTIFACTS_FOLDER)
        return path

    def supervisor_pid(self) -> int | None:
        """The process that holds the folder, if there is one."""
        path = self.folder / STATE_FILE
        if not path.exists():
            return None
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._read_state().get("pid")
        return None

    def supervise(self) -> None:
        """Keep both running until a signal says to stop."""
        with (self.folder / STATE_FILE).open("a+") as state, _stop_signals() as stopped:
            try:
                fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.folder}: is supervised already") from None
            postgres = _Service("postgres", self._start_postgres, stop_signal=signal.SIGINT)
            mlflow = _Service("mlflow", self._start_mlflow, stop_signal=signal.SIGTERM)

            def write_state() -> None:
                document = {"pid": os.getpid()}
                document |= {service.name: service.as_json() for service in (postgres, mlflow)}
                state.seek(0)
                state.truncate()
                json.dump(document, state)
                state.flush()

            try:
                while not stopped.is_set():
                    changed = postgres.keep_running()
                    if postgres.is_running and self._has_databases():
                        changed |= mlflow.keep_running()
                    if changed:
                        write_state()
                    stopped.wait(0.5)
            finally:
                mlflow.stop()  # first: it writes into the other
                postgres.stop()

    # PostgreSQL

    def _database_url(self, database: str) -> str:
        settings = self.settings
        return (
            f"postgresql+psycopg://{USER}@{settings.host}:{settings.postgres_port}/{database}"
            f"?passfile={self.folder / 'pgpass'}"
        )

    def _create(self, backup: Path | None) -> None:
        if backup is not None and not backup.is_file():
            raise ValueError(f"{backup}: there is no such backup")
        programs = postgres_programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        account = _database_account()
        data = self.folder / "postgres"
        data.mkdir(mode=0o700, exist_ok=True)
        password = secrets.token_urlsafe(24)
        _write_private(self.folder / "pgpass", f"*:*:*:{USER}:{password}\n")
        if account is not None:
            shutil.chown(data, account)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(password)
            file.flush()
            if account is not None:
                shutil.chown(file.name, account)
            options = [f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={file.name}"]
            done = subprocess.run(  # noqa: S603
                [programs / "initdb", *options, "--encoding=UTF8", "-D", data],
                **_as(account),
                capture_output=True,
                text=True,
                check=False,
                cwd=data,
            )
        if done.returncode:
            raise ValueError(f"{data}: PostgreSQL could not make a database: {done.stderr.strip()}")
        if not _is_loopback(self.settings.host):
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")
        environment = {
            "ORCHESTRATOR_STORAGE": self.storage_url,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
        }
        lines = [f"export {name}='{value}'\n" for name, value in environment.items()]
        (self.folder / ENVIRONMENT_FILE).write_text("".join(lines))
        if backup is not None:
            (self.folder / _RESTORING).touch()
        # Last: with this file the folder counts as made.
        (self.folder / SETTINGS_FILE).write_text(json.dumps(asdict(self.settings), indent=2))

    def _start_postgres(self) -> subprocess.Popen[Any]:
        settings, account = self.settings, _database_account()
        options = {
            "listen_addresses": settings.host,
            "unix_socket_directories": "",
            "max_connections": MAX_CONNECTIONS,
        }
        command: list[Any] = [postgres_programs() / "postgres", "-D", self.folder / "postgres"]
        command += ["-p", str(settings.postgres_port)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return self._spawn(command, "postgres.log", signal.SIGINT, **_as(account))

    def _has_databases(self) -> bool:
        if self._made_databases:
            return True
        if not self._postgres_answers():
            return False
        if (self.folder / _RESTORING).exists():
            return False
        found = self._psql("postgres", "SELECT datname FROM pg_database")
        for database in DATABASES:
            if database not in found.split():
                self._psql("postgres", f"CREATE DATABASE {database}")
        self._made_databases = True
        return True

    def _postgres_answers(self) -> bool:
        try:
            self._psql("postgres", "SELECT 1")
        except ValueError:
            return False
        return True

    def _psql(self, database: str, statement: str) -> str:
        return self._postgres_program("psql", "-X", "-A", "-t", "-c", statement, database)

    def _postgres_program(self, name: str, *arguments: str) -> str:
        where = {
            "PGHOST": self.settings.host,
            "PGPORT": str(self.settings.postgres_port),
            "PGUSER": USER,
            "PGPASSFILE": str(self.folder / "pgpass"),
            "PGCONNECT_TIMEOUT": "5",
        }
        done = subprocess.run(  # noqa: S603
            [postgres_programs() / name, *arguments],
            env={**os.environ, **where},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"{name}: {done.stderr.strip()}")
        return done.stdout

    def _restore(self, backup: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            with tarfile.open(backup) as archive:
                archive.extractall(scratch, filter="data")
            for database in DATABASES:
                self._psql("postgres", f"CREATE DATABASE {database}")
                dump = f"{scratch}/{database}.dump"
                self._postgres_program("pg_restore", "--exit-on-error", "-d", database, dump)
            kept = Path(scratch, ARTIFACTS_FOLDER)
            if kept.is_dir():
                kept.replace(self.folder / ARTIFACTS_FOLDER)

    # MLflow

    def _start_mlflow(self) -> subprocess.Popen[Any]:
        settings = self.settings
        return self._spawn(
            server_command(
                self._database_url("mlflow"), self.artifacts, settings.host, settings.mlflow_port
            ),
            "mlflow.log",
            signal.SIGTERM,
            env=server_environment(),
        )

    def _mlflow_answers(self) -> bool:
        return is_healthy(self.tracking_uri, timeout_seconds=5)

    # Processes

    def _spawn(
        self, command: Sequence[Any], log_file: str, death_signal: int, **options: Any
    ) -> subprocess.Popen[Any]:
        with (self.folder / log_file).open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [*map(str, command)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_ends_with_us(death_signal),
                **options,
            )

    def _starts_by_us(self, service: str) -> int:
        """How often the supervisor that we started had to start it."""
        state = self._read_state()
        if self._supervisor is None or state.get("pid") != self._supervisor.pid:
            return 0  # what an earlier one left
        return state.get(service, {}).get("starts", 0)

    def _read_state(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / STATE_FILE).read_text())
        except (ValueError, FileNotFoundError):  # it is just being written, or will be
            return {}

    def _refuse_taken_ports(self) -> None:
        for name, port in (
            ("PostgreSQL", self.settings.postgres_port),
            ("MLflow", self.settings.mlflow_port),
        ):
            deadline = time.monotonic() + 10  # those of a supervisor that died may just be ending
            while not is_free(self.settings.host, port):
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"port {port} of {self.settings.host}, for {name}, is taken or not ours "
                        "to use"
                    )
                time.sleep(0.2)

    def _wait(self, name: str, service: str, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            died = self._supervisor is not None and self._supervisor.poll() is not None
            ends_again_and_again = self._starts_by_us(service) >= START_ATTEMPTS
            if died or ends_again_and_again or time.monotonic() > deadline:
                log = self.folder / ("supervisor.log" if died else f"{service}.log")
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise ValueError(f"{name} does not answer; {log} ends with:\n{tail}")
            time.sleep(0.3)


class _Service:
    """A process that is started again when it ends."""

    def __init__(
        self, name: str, start: Callable[[], subprocess.Popen[Any]], stop_signal: int
    ) -> None:
        self.name = name
        self._start = start
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[Any] | None = None
        self._starts = 0
        self._started = 0.0
        self._pause = 0.0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def as_json(self) -> dict[str, Any]:
        return {"pid": self._process and self._process.pid, "starts": self._starts}

    def keep_running(self) -> bool:
        """Start it if it does not run; True if that was so."""
        if self.is_running:
            return False
        ran = time.monotonic() - self._started
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGKILL)  # what it may have left
            if ran < self._pause:
                return False
            logger.warning("%s ended with %s; starting it again", self.name, self._process.poll())
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause + 1) if ran < 60 else 0.0
        self._process = self._start()
        self._starts += 1
        self._started = time.monotonic()
        return True

    def stop(self) -> None:
        if self._process is None or not self.is_running:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(timeout=STOP_SECONDS / 2)
        except subprocess.TimeoutExpired:
            logger.warning("%s does not stop; killing it", self.name)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()


def postgres_programs() -> Path:
    """The folder of PostgreSQL's server programs; ValueError if they are not installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise ValueError("PostgreSQL's server is not installed (on Debian: apt install postgresql)")
    return found[-1].parent if found else Path(str(on_path)).parent


def _database_account() -> str | None:
    """Who runs the database: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise ValueError("as root, PostgreSQL needs an account `postgres` to run under") from None


def _as(account: str | None) -> dict[str, Any]:
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _ends_with_us(death_signal: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, death_signal)

    return ask_kernel


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("localhost", "::1")


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    yield stopped


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Services.open(Path(sys.argv[1])).supervise()
