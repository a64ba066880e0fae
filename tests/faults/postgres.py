"""A private PostgreSQL server that can be stopped and started again."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

PASSWORD = "open-sesame-4711"


class PostgreSQL:
    """Listens on the loopback address; who connects must know the password."""

    def __init__(self) -> None:
        # Not in pytest's own folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.folder, "postgres")
            self._as_user = ["runuser", "-u", "postgres", "--"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self._call("initdb", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={secret}")
        self.start()

    @staticmethod
    def programs() -> Path | None:
        """Where the server's programs are, if it is installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        return found[-1].parent if found else None

    def url(self, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://tester:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 "
            f"-c unix_socket_directories={self.folder} -c fsync=off"
        )
        self._call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is how a server dies with its machine; `fast` is how it is restarted."""
        self._call("pg_ctl", "-w", "-m", mode, "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _call(self, program: str, *arguments: str) -> None:
        programs = self.programs()
        assert programs is not None
        subprocess.run(
            [*self._as_user, programs / program, "-D", self.folder / "data", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )
