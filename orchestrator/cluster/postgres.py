"""A PostgreSQL server of our own in a folder: made, asked, copied out and read back in."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "orchestrator"
MAX_CONNECTIONS = 300
"""MLflow's four workers may hold 60, a sweep a few; PostgreSQL's own limit of 100 is near that."""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """The server whose data and password lie in `folder`, at an address."""

    folder: Path
    host: str
    port: int

    def url(self, database: str) -> str:
        """For SQLAlchemy. The password stays in its file."""
        return (
            f"postgresql+psycopg://{USER}@{self.host}:{self.port}/{database}"
            f"?passfile={self._password_file}"
        )

    def create(self) -> None:
        """Make its data and its password; ValueError says why that cannot be."""
        programs, account = postgres_programs(), _account()
        data = self.folder / "postgres"
        data.mkdir(mode=0o700, exist_ok=True)
        password = secrets.token_urlsafe(24)
        _write_private(self._password_file, f"*:*:*:{USER}:{password}\n")
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
        if not _is_loopback(self.host):
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")

    def command(self) -> tuple[list[Any], dict[str, Any]]:
        """What starts the server, and as whom."""
        options = {
            "listen_addresses": self.host,
            "unix_socket_directories": "",
            "max_connections": MAX_CONNECTIONS,
        }
        command: list[Any] = [postgres_programs() / "postgres", "-D", self.folder / "postgres"]
        command += ["-p", str(self.port)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return command, _as(_account())

    def answers(self) -> bool:
        try:
            self.ask("postgres", "SELECT 1")
        except ValueError:
            return False
        return True

    def ask(self, database: str, statement: str) -> str:
        """What `psql` prints; ValueError where it fails."""
        return self._program("psql", "-X", "-A", "-t", "-c", statement, database)

    def make_missing(self, databases: Iterable[str]) -> None:
        found = self.ask("postgres", "SELECT datname FROM pg_database").split()
        for database in databases:
            if database not in found:
                self.ask("postgres", f"CREATE DATABASE {database}")

    def dump(self, database: str, path: Path) -> None:
        """Write all of a database into a file, while others use it."""
        self._program("pg_dump", "--format=custom", f"--file={path}", database)

    def restore(self, database: str, path: Path) -> None:
        """Make the database that `dump` wrote."""
        self.ask("postgres", f"CREATE DATABASE {database}")
        self._program("pg_restore", "--exit-on-error", "-d", database, str(path))

    @property
    def _password_file(self) -> Path:
        return self.folder / "pgpass"

    def _program(self, name: str, *arguments: str) -> str:
        where = {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": USER,
            "PGPASSFILE": str(self._password_file),
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


def postgres_programs() -> Path:
    """The folder of PostgreSQL's server programs; ValueError if they are not installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise ValueError("PostgreSQL's server is not installed (on Debian: apt install postgresql)")
    return found[-1].parent if found else Path(str(on_path)).parent


def _account() -> str | None:
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


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("localhost", "::1")


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
